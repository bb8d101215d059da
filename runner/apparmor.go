package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/teu-dev/teu/runner/spec"
	"github.com/teu-dev/teu/runner/userns"
)

// DefaultAppArmor is the AppArmor profile of containers: docker's, under a name of ours.
const DefaultAppArmor = "teu-default"

// AppArmorSupported says that containers get that profile: the host enforces profiles, and
// can be given one, by its own root.
func AppArmorSupported() bool {
	if !spec.AppArmorEnabled() || userns.Inside() {
		return false
	}
	_, err := os.Stat(appArmorPolicy)
	if err == nil {
		_, err = os.Stat("/sbin/apparmor_parser")
	}
	return err == nil
}

// appArmorPolicy has a directory "NAME.NUMBER" for each profile that is loaded; apparmorfs.
const appArmorPolicy = "/sys/kernel/security/apparmor/policy/profiles"

// appArmor is the profile a container gets, "" for none.
func (o *Options) appArmor() string {
	switch {
	case o.AppArmor != "":
		return o.AppArmor
	case !AppArmorSupported():
		return ""
	case o.Privileged:
		return "unconfined"
	}
	return DefaultAppArmor
}

// AppArmor is the profile of what asks for no other, loaded; "" where this host has none.
func (e *Engine) AppArmor() (string, error) {
	profile := (&Options{}).appArmor()
	return profile, e.loadAppArmor(profile)
}

// loadAppArmor has the whole of teu load the default profile, the first time after the boot.
func (e *Engine) loadAppArmor(profile string) error {
	if profile != DefaultAppArmor {
		return nil
	}
	loaded, err := filepath.Glob(filepath.Join(appArmorPolicy, profile+".*"))
	if err != nil || len(loaded) > 0 {
		return err
	}
	words := e.teu("system", "apparmor")
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("loading the AppArmor profile %s (--security-opt apparmor=unconfined does without): %w: %s",
			profile, err, strings.TrimSpace(string(out)))
	}
	return nil
}
