// Package tig has what is linked of a test framework.
package tig

import "testing"

// T is a test.
type T = testing.TB
