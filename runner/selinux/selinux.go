// Package selinux knows the labels that the policy of this host has for containers, and
// gives them to files. It decides nothing about who is to have one.
package selinux

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Attribute is the extended attribute that holds the label of a file.
const Attribute = "security.selinux"

// Enabled says that the kernel of this host has a policy loaded, whether it enforces it or only notes what
// it would refuse.
func Enabled() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}

// Label is a security context: USER:ROLE:TYPE[:LEVEL]. The level of a policy with
// categories has a colon of its own ("s0:c1,c2").
type Label struct{ User, Role, Type, Level string }

// maxLabel is the longest label in bytes; the kernel takes a page.
const maxLabel = 4095

// Parse reads a label.
func Parse(text string) (Label, error) {
	parts := strings.SplitN(text, ":", 4)
	if len(parts) < 3 || len(text) > maxLabel || slices.Contains(parts, "") || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Label{}, fmt.Errorf("SELinux label %q: %w", text, errdefs.ErrInvalidArgument)
	}
	l := Label{User: parts[0], Role: parts[1], Type: parts[2]}
	if len(parts) == 4 {
		l.Level = parts[3]
	}
	return l, nil
}

func (l Label) String() string {
	text := l.User + ":" + l.Role + ":" + l.Type
	if l.Level != "" {
		text += ":" + l.Level
	}
	return text
}

// Defaults are what the policy of this host has for containers: the label of their processes and that of
// their files, without categories. A policy without containers, or a host without SELinux, is an errdefs.ErrNotFound.
func Defaults() (process, file Label, err error) {
	if !Enabled() {
		return Label{}, Label{}, fmt.Errorf("SELinux is not enabled on this host: %w", errdefs.ErrNotFound)
	}
	return defaults("/etc/selinux", known)
}

// defaults is Defaults for a directory in the place of /etc/selinux. Some policies, that of
// Debian 12 for one, name types there that they do not have, which is what known is asked for.
func defaults(dir string, known func(Label) bool) (process, file Label, err error) {
	config, err := readSettings(filepath.Join(dir, "config"))
	policy := config["SELINUXTYPE"]
	if err != nil || !filepath.IsLocal(policy) {
		return Label{}, Label{}, errors.Join(err, fmt.Errorf("no SELINUXTYPE in %s/config: %w", dir, errdefs.ErrNotFound))
	}
	path := filepath.Join(dir, policy, "contexts", "lxc_contexts") // SELinux's name for it: selabel_lookup(3) has none
	list, err := readSettings(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Label{}, Label{}, fmt.Errorf("the SELinux policy %s has no labels for containers: %w", policy, errdefs.ErrNotFound)
	}
	if err != nil {
		return Label{}, Label{}, err
	}
	process, err = Parse(list["process"])
	if err == nil {
		file, err = Parse(list["file"])
	}
	if err != nil {
		return Label{}, Label{}, fmt.Errorf("%s: %w", path, err)
	}
	if !known(process) || !known(file) {
		return Label{}, Label{}, fmt.Errorf("the SELinux policy %s does not have the labels %s and %s of its own %s: %w",
			policy, process, file, path, errdefs.ErrNotFound)
	}
	return process, file, nil
}

// ServiceLabel is the label with which a service of the system can start containers, where we are an administrator who is not
// confined; else it is "". The reference policy lets services change to that one, and not to that of a container.
func ServiceLabel() string {
	own, err := os.ReadFile("/proc/thread-self/attr/current")
	if err != nil || !Enabled() {
		return ""
	}
	label := serviceLabel(string(bytes.TrimRight(own, "\x00\n")))
	if label == "" || Check(label) != nil {
		return ""
	}
	return label
}

func serviceLabel(own string) string {
	l, err := Parse(own)
	if err != nil || l.Type != "unconfined_t" {
		return ""
	}
	l.User, l.Role = "system_u", "system_r"
	return l.String()
}

// Check refuses a label that the policy of this host does not have.
func Check(text string) error {
	l, err := Parse(text)
	if err == nil && !known(l) {
		err = fmt.Errorf("the SELinux policy of this host has no label %s: %w", text, errdefs.ErrInvalidArgument)
	}
	return err
}

// known asks the kernel whether its policy has a label. Where it may not be asked, it will tell when the label is used.
func known(l Label) bool {
	f, err := os.OpenFile("/sys/fs/selinux/context", os.O_RDWR, 0)
	if err != nil {
		return true
	}
	defer f.Close()
	_, err = f.Write([]byte(l.String() + "\x00"))
	return !errors.Is(err, unix.EINVAL)
}

// readSettings reads the lines KEY=VALUE of a file. Values may be quoted.
func readSettings(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseSettings(io.LimitReader(f, maxSettings))
}

// maxSettings is what is read of such a file, in bytes.
const maxSettings = 64 << 10

func parseSettings(r io.Reader) (map[string]string, error) {
	list := map[string]string{}
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		key, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") {
			list[strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return list, s.Err()
}

// Wishes are what somebody wants of the labels of a container; "" is as the policy has it.
type Wishes struct {
	Disable                 bool // no label for the processes
	User, Role, Type, Level string
	FileType                string
}

// ParseWishes reads the values of docker's and podman's --security-opt label=VALUE.
func ParseWishes(values []string) (w Wishes, err error) {
	for _, v := range values {
		key, value, ok := strings.Cut(v, ":")
		switch {
		case v == "disable":
			w.Disable = true
			continue
		case !ok || value == "":
			return w, fmt.Errorf("bad label option %q, valid options 'disable' or 'user, role, level, type, filetype' followed by ':' and a value: %w",
				v, errdefs.ErrInvalidArgument)
		}
		switch key {
		case "user":
			w.User = value
		case "role":
			w.Role = value
		case "type":
			w.Type = value
		case "level":
			w.Level = value
		case "filetype":
			w.FileType = value
		default:
			return w, fmt.Errorf("bad label option %q, valid options 'disable, user, role, level, type, filetype': %w", v, errdefs.ErrInvalidArgument)
		}
	}
	return w, nil
}

// unlabelledLevel is that of the files of containers whose processes have no label: no other container has it, so
// that none reaches them.
const unlabelledLevel = ":c1022,c1023"

// Apply makes the labels of a container from those of the policy. Categories are those of the
// wish, or else two that free says no other container has.
func (w Wishes) Apply(process, file Label, free func(level string) bool) (processLabel, fileLabel string) {
	sensitivity, _, _ := strings.Cut(process.Level, ":")
	categories := process.Level != ""
	file.Type = cmp.Or(w.FileType, file.Type)
	if w.Disable {
		if categories {
			file.Level = sensitivity + unlabelledLevel
		}
		return "", file.String()
	}
	process.User, process.Role, process.Type = cmp.Or(w.User, process.User), cmp.Or(w.Role, process.Role), cmp.Or(w.Type, process.Type)
	file.User = cmp.Or(w.User, file.User)
	if categories {
		level := w.Level
		for level == "" {
			if l := sensitivity + ":" + randomCategories(); free(l) {
				level = l
			}
		}
		process.Level, file.Level = level, level
	}
	return process.String(), file.String()
}

// maxCategory is the number of categories of the policies that there are, but for the two of unlabelledLevel.
const maxCategory = 1022

// randomCategories are two of half a million pairs.
func randomCategories() string {
	a, b := rand.IntN(maxCategory), rand.IntN(maxCategory-1)
	if b >= a {
		b++
	}
	return fmt.Sprintf("c%d,c%d", min(a, b), max(a, b))
}

// Shared is the label of files that all containers may use, made from that of one.
func Shared(label string) string {
	l, err := Parse(label)
	if err != nil {
		return label
	}
	l.Level, _, _ = strings.Cut(l.Level, ":")
	return l.String()
}

// SetFile labels one file; a link itself and not what it leads to.
func SetFile(path, label string) error {
	if err := unix.Lsetxattr(path, Attribute, []byte(label), 0); err != nil {
		return &os.PathError{Op: "labelling " + label, Path: path, Err: err}
	}
	return nil
}

// fileLabel is the label of an open file, "" if it has none or none is to be had.
func fileLabel(fd int) string {
	buf := make([]byte, maxLabel+1)
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), Attribute, buf)
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(buf[:n], "\x00"))
}
