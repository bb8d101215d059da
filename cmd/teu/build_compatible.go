//go:build !front && !porter

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
)

// A compatible is a flag of `docker build` and `docker buildx build` that scripts pass and that asks
// for nothing here, or for what is done anyway.
type compatible struct {
	name, short string
	isBool      bool
}

func compatibles() []compatible {
	return []compatible{
		{"rm", "", true}, {"force-rm", "", true}, {"compress", "", true}, {"disable-content-trust", "", true},
		{"stream", "", true}, {"debug", "D", true}, {"builder", "", false}, {"isolation", "", false},
		{"security-opt", "", false}, {"root", "", false}, {"ref-file", "", false},
	}
}

// limits are the flags with limits of the steps, and the frontend's names of them.
type limits struct {
	memory, memorySwap, cpusetCPUs, cpusetMems string
	shares, period, quota                      int64
	list                                       []string // NAME=VALUE, of --resource
}

// attests are the flags that ask for statements about the build.
type attests struct {
	attest           []string
	provenance, sbom string
}

// registerCompatible takes flags of docker that ask for what is done anyway.
func (f *buildFlags) registerCompatible(cmd *cobra.Command) {
	s := cmd.Flags()
	for _, c := range compatibles() {
		if s.Lookup(c.name) != nil || cmd.InheritedFlags().Lookup(c.name) != nil || c.name == "root" {
			continue
		}
		if c.isBool {
			s.BoolP(c.name, c.short, false, "")
		} else {
			s.String(c.name, "", "")
		}
		_ = s.MarkHidden(c.name) // it was just made
	}
	s.StringVarP(&f.limits.memory, "memory", "m", "", "memory of a step")
	s.StringVar(&f.limits.memorySwap, "memory-swap", "", "memory and swap of a step, -1 for no limit")
	s.Int64VarP(&f.limits.shares, "cpu-shares", "c", 0, "weight of a step among others")
	s.Int64Var(&f.limits.period, "cpu-period", 0, "period of the CPU limit, in microseconds")
	s.Int64Var(&f.limits.quota, "cpu-quota", 0, "CPU time of a step in each period, in microseconds")
	s.StringVar(&f.limits.cpusetCPUs, "cpuset-cpus", "", "CPUs of the steps, such as 0-1,3")
	s.StringVar(&f.limits.cpusetMems, "cpuset-mems", "", "memory nodes of the steps")
	s.StringArrayVar(&f.limits.list, "resource", nil, "NAME=VALUE, a limit by the name of its flag: memory, memory-swap, cpu-shares, ...")
	s.StringArrayVar(&f.policies, "policy", nil, "")
	s.StringVar(&f.call, "print", f.call, "")
	s.BoolVar(&f.squash, "squash", false, "")
	s.StringArrayVar(&f.attests.attest, "attest", nil, "say something about the image beside it: type=provenance,mode=min|max,...")
	s.StringVar(&f.attests.provenance, "provenance", "", "say how the image was built: true, false or settings of --attest")
	s.StringVar(&f.attests.sbom, "sbom", "", "list what is in the image, by a scanner: true, false or generator=IMAGE")
	for _, name := range []string{"squash", "policy", "print", "resource", "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"} {
		_ = s.MarkHidden(name) // it was just made
	}
}

// set takes what is to be stated about the build. Of two wishes of one kind the first counts, as with buildx.
func (a attests) set(o *build.Options) error {
	list := a.attest
	for kind, value := range map[string]string{"provenance": a.provenance, "sbom": a.sbom} {
		if yes, err := strconv.ParseBool(value); err == nil {
			value = fmt.Sprintf("disabled=%t", !yes)
		}
		if value != "" {
			list = append(list, "type="+kind+","+value)
		}
	}
	wanted := map[string]string{}
	for _, s := range list {
		kind, err := build.StatementKind(s)
		if err != nil {
			return fmt.Errorf("--attest %s: %w", s, err)
		}
		if _, twice := wanted[kind]; !twice {
			wanted[kind] = s
		}
	}
	return o.SetStatements(wanted)
}

// add takes the limits of --resource, which are called as the flags of their own.
func (l *limits) add() error {
	texts := map[string]*string{"memory": &l.memory, "memory-swap": &l.memorySwap, "cpuset-cpus": &l.cpusetCPUs, "cpuset-mems": &l.cpusetMems}
	numbers := map[string]*int64{"cpu-shares": &l.shares, "cpu-period": &l.period, "cpu-quota": &l.quota}
	for _, s := range l.list {
		name, value, ok := strings.Cut(s, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch text, number := texts[name], numbers[name]; {
		case !ok:
			return fmt.Errorf("invalid resource %q, expected key=value", s)
		case text != nil:
			*text = value
		case number != nil:
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return fmt.Errorf("invalid value %q for resource %s: %w", value, name, err)
			}
			*number = n
		default:
			return fmt.Errorf("unknown resource %q", name)
		}
	}
	return nil
}

// set translates the limits into what the frontend takes.
func (l limits) set(o *build.Options) error {
	if err := l.add(); err != nil {
		return err
	}
	m := map[string]string{"cpusetcpus": l.cpusetCPUs, "cpusetmems": l.cpusetMems}
	for name, v := range map[string]int64{"cpushares": l.shares, "cpuperiod": l.period, "cpuquota": l.quota} {
		if v != 0 {
			m[name] = strconv.FormatInt(v, 10)
		}
	}
	for name, text := range map[string]string{"memory": l.memory, "memswap": l.memorySwap} {
		if text == "" {
			continue
		}
		n := int64(-1)
		if text != "-1" {
			var err error
			if n, err = units.RAMInBytes(text); err != nil {
				return fmt.Errorf("limit %s: %w", text, err)
			}
		}
		m[name] = strconv.FormatInt(n, 10)
	}
	for name, v := range m {
		if v == "" {
			delete(m, name)
		}
	}
	if len(m) > 0 {
		o.Limits = m
	}
	return nil
}
