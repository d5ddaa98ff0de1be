// SPDX-License-Identifier: Apache-2.0

// Package cluster runs whole clusters of real processes, etcd's, Cairn's or both mixed, under load and under faults:
// kill -9, SIGSTOP, partitions, moves of the leader, exchanged members. What clients were told meanwhile is a history,
// and two independent checkers judge it: one replays it in the order of its revisions (revisions.go), the other knows
// no revisions and looks for any order at all that explains what clients saw (linear.go).
package cluster

import (
	"fmt"
	"sort"
	"strings"
)

// version is what a client sees of one key; the zero value says that the key does not exist.
type version struct {
	value                string
	create, mod, version int64
}

// state is the store at one revision: the keys that exist.
type state map[string]version

// change is a put of a key, or its removal when the value is empty.
type change struct{ key, value string }

// guard is the condition of a transaction: the key still is as a client saw it.
type guard struct {
	key  string
	seen version // Compared by value or by mod revision: values are unique, so both say the same.
}

// operation is one call of a client. Every call has the same shape: if the guard holds, make the changes, all in one
// revision, and in any case tell how some keys were *before* that.
//
// A put has one change; a get has none; a compare-and-swap has a guard.
type operation struct {
	client, number int
	what           string
	call, ret      int64 // Nanoseconds since the start; ret means nothing without an answer.
	guard          *guard
	changes        []change
	serializable   bool

	// The answer. Without one nobody knows whether the changes were made, or will be.
	answered bool
	err      error
	member   uint64             // Who answered.
	revision int64              // Of the header: its own for a write that changed something.
	held     bool               // Whether the guard held; true without one.
	saw      map[string]version // As they were before the changes.
	removed  map[string]bool    // Whether a removal found its key.
}

func (o *operation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d #%d %s [%.3f s, ", o.client, o.number, o.what, float64(o.call)/1e9)
	if !o.answered {
		fmt.Fprintf(&b, "no answer: %v]", o.err)
		return b.String()
	}
	fmt.Fprintf(&b, "%.3f s] by %x at revision %d", float64(o.ret)/1e9, o.member, o.revision)
	if o.guard != nil {
		fmt.Fprintf(&b, ", guard held: %v", o.held)
	}
	for _, key := range sortedKeys(o.saw) {
		fmt.Fprintf(&b, ", saw %s=%q", key, o.saw[key].value)
	}
	return b.String()
}

// holds says whether the operation's guard holds in a state.
func (o *operation) holds(s state) bool { return o.guard == nil || s[o.guard.key] == o.guard.seen }

// wrote says whether the answer claims a revision of its own.
func (o *operation) wrote() bool {
	if !o.answered || !o.held {
		return false
	}
	for _, c := range o.changes {
		if c.value != "" || o.removed[c.key] {
			return true
		}
	}
	return false
}

// apply returns the store after the operation, if it were given the revision, and whether it changes anything. The
// state is left as it is.
func (o *operation) apply(s state, revision int64) (state, bool) {
	if !o.holds(s) {
		return s, false
	}
	next := make(state, len(s)+1)
	for key, v := range s {
		next[key] = v
	}
	changed := false
	for _, c := range o.changes {
		v, exists := next[c.key]
		if c.value == "" {
			delete(next, c.key)
			changed = changed || exists
			continue
		}
		if !exists {
			v.create = revision
		}
		v.value, v.mod, v.version = c.value, revision, v.version+1
		next[c.key] = v
		changed = true
	}
	return next, changed
}

// difference tells in what two states differ, "" when in nothing.
func difference(want, got state) string {
	for _, key := range sortedKeys(want) {
		if got[key] != want[key] {
			return fmt.Sprintf("%s is %+v, should be %+v", key, got[key], want[key])
		}
	}
	for _, key := range sortedKeys(got) {
		if _, ok := want[key]; !ok {
			return fmt.Sprintf("%s is %+v, should not exist", key, got[key])
		}
	}
	return ""
}

func sortedKeys(m map[string]version) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
