package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"
)

// list is the value of a flag that may be given several times. That of pflag writes itself as CSV
// when it is made, which takes four kilobytes: for all flags of `run` a twentieth of the memory that
// the command touches.
type list struct{ values *[]string }

// listVar makes such a flag. short may be empty.
func listVar(f *pflag.FlagSet, p *[]string, name, short, usage string) {
	f.VarP(list{p}, name, short, usage)
}

func (l list) Set(value string) error {
	*l.values = append(*l.values, value)
	return nil
}

func (l list) String() string { return strings.Join(*l.values, ",") }

// Type is the word of the help for the value.
func (l list) Type() string { return "stringArray" }

// filterList is the value of --filter, docker's (docker/cli opts, FilterOpt): what is empty filters nothing, and what is not
// NAME=VALUE is refused while the command line is read.
type filterList struct{ list }

func filterVar(f *pflag.FlagSet, p *[]string, short, usage string) {
	f.VarP(filterList{list{p}}, "filter", short, usage)
}

func (l filterList) Set(value string) error {
	if value == "" {
		return nil
	}
	if !strings.Contains(value, "=") {
		return errors.New("bad format of filter (expected name=value)")
	}
	return l.list.Set(value)
}
