//go:build !front

package main

import (
	"os"
	"strings"
)

// carryingCommands bring images from one place to another and name them: the porter of teu has them, and so
// has the whole.
func carryingCommands() []command {
	return []command{
		{"pull", newPullCommand},
		{"push", newPushCommand},
		{"rmi", newRmiCommand},
		{"tag", newTagCommand},
		{"history", newHistoryCommand},
		{"save", newSaveCommand},
		{"load", newLoadCommand},
		{"search", newSearchCommand},
		{"copy", newCopyCommand},
		{"manifest", newManifestCommand},
		{"login", newLoginCommand},
		{"logout", newLogoutCommand},
		{"log-relay", newLogRelayCommand},
	}
}

// ownSelf is the executable that has handed over to this one, or this one.
func ownSelf() self {
	identity, path, ok := strings.Cut(os.Getenv(selfVariable), " ")
	os.Unsetenv(selfVariable) // they are nothing to those that teu starts
	os.Unsetenv(wholeVariable)
	if !ok {
		return findSelf()
	}
	return self{path, identity}
}
