// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"sort"
)

// record is what a cluster says its history is: the whole store at each revision from base on. It was read after the
// faults were over, from several members.
type record struct {
	base   int64
	states []state // states[i] is the store at revision base+i.
}

func (r *record) head() int64 { return r.base + int64(len(r.states)) - 1 }

func (r *record) at(revision int64) state { return r.states[revision-r.base] }

func (r *record) covers(revision int64) bool { return revision >= r.base && revision <= r.head() }

// ordered checks a history by its revisions. It uses no watch. Rules, each with its own message:
//
//  1. Every revision was made by exactly one write that a client sent, and is exactly what that write does to the
//     revision before; no two writes were told the same revision, and none that was told one is missing. A write
//     without an answer may have been made, once, or not.
//  2. Whatever a call was told, a guard's outcome, a value, a removal, a previous version, is how the store was just
//     before its revision, or, if it changed nothing, at its revision.
//  3. What a client is told never lies before what any call that had ended earlier was told (linearizable calls), and
//     never holds a write that nobody had sent yet (all calls).
//  4. The revisions that one client is told by linearizable calls never fall.
//
// Rules 1 to 3 together say that the history is linearizable over the whole store, with the revisions as witness.
type ordered struct {
	record *record
	ops    []*operation
	owner  map[int64]*operation
	errs   []error
}

const errorsMax = 12

// checkRevisions returns the operations without an answer that turned out not to have been made, so far.
func checkRevisions(r *record, ops []*operation) (open []*operation, err error) {
	x := &ordered{record: r, ops: ops, owner: map[int64]*operation{}}
	open = x.replay()
	x.answers()
	x.realTime()
	x.sessions()
	return open, errors.Join(x.errs...)
}

func (x *ordered) fail(format string, args ...any) {
	if len(x.errs) < errorsMax {
		x.errs = append(x.errs, fmt.Errorf(format, args...))
	}
}

// replay finds the write of each revision.
func (x *ordered) replay() (open []*operation) {
	byValue := map[string]*operation{}
	for _, o := range x.ops {
		switch {
		case !o.answered && len(o.changes) > 0:
			open = append(open, o)
			for _, c := range o.changes {
				byValue[c.value] = o
			}
		case o.wrote():
			x.claim(o)
		}
	}
	delete(byValue, "")
	sort.SliceStable(open, func(i, j int) bool { return open[i].call < open[j].call })
	for revision := x.record.base + 1; revision <= x.record.head(); revision++ {
		before, after := x.record.at(revision-1), x.record.at(revision)
		o := x.owner[revision]
		if o == nil {
			if o = explain(before, after, revision, byValue, open); o == nil {
				x.fail("revision %d was made by no write that was sent: %s", revision, difference(before, after))
				continue
			}
			x.owner[revision] = o
			open = without(open, o)
			for _, c := range o.changes {
				delete(byValue, c.value)
			}
		}
		next, changed := o.apply(before, revision)
		if !changed {
			x.fail("revision %d: this changes nothing there: %v", revision, o)
		} else if d := difference(next, after); d != "" {
			x.fail("revision %d: %s, by %v", revision, d, o)
		}
	}
	return open
}

func (x *ordered) claim(o *operation) {
	switch {
	case o.revision > x.record.head():
		x.fail("lost: the cluster is at revision %d: %v", x.record.head(), o)
	case o.revision <= x.record.base:
		x.fail("a revision that had been reached before the call (%d): %v", x.record.base, o)
	case x.owner[o.revision] != nil:
		x.fail("one revision given twice: %v and %v", x.owner[o.revision], o)
	default:
		x.owner[o.revision] = o
	}
}

// explain finds the write without an answer that made a revision. Every put has a value of its own, so a write with
// puts is known by them; the others are removals of one key, and of these the earliest is as good as any.
func explain(before, after state, revision int64, byValue map[string]*operation, open []*operation) *operation {
	for _, v := range after {
		if v.mod == revision {
			return byValue[v.value]
		}
	}
	for _, o := range open {
		if next, changed := o.apply(before, revision); changed && difference(next, after) == "" {
			return o
		}
	}
	return nil
}

func without(list []*operation, o *operation) []*operation {
	for i, x := range list {
		if x == o {
			return append(append([]*operation{}, list[:i]...), list[i+1:]...)
		}
	}
	return list
}

// skipped says that an answer can't be looked up: an old one of a serializable read, which may lag behind base.
func (x *ordered) skipped(o *operation) bool {
	return !o.answered || o.serializable && o.revision < x.record.base
}

// answers is rule 2.
func (x *ordered) answers() {
	for _, o := range x.ops {
		if x.skipped(o) {
			continue
		}
		at := o.revision
		if o.wrote() {
			at--
		}
		if !x.record.covers(at) {
			x.fail("a revision outside of %d to %d: %v", x.record.base, x.record.head(), o)
			continue
		}
		s := x.record.at(at)
		if o.guard != nil && o.holds(s) != o.held {
			x.fail("guard held: %v, but %s was %+v: %v", o.held, o.guard.key, s[o.guard.key], o)
		}
		for key, v := range o.saw {
			if s[key] != v {
				x.fail("saw %s as %+v, it was %+v: %v", key, v, s[key], o)
			}
		}
		for key, found := range o.removed {
			if _, exists := s[key]; exists != found {
				x.fail("removal of %s found it: %v, it existed: %v: %v", key, found, exists, o)
			}
		}
	}
}

// realTime is rule 3.
func (x *ordered) realTime() {
	// sent[i] is the latest moment at which a write up to revision base+i was sent.
	sent := make([]int64, len(x.record.states))
	for i := range sent {
		if i > 0 {
			sent[i] = sent[i-1]
		}
		if o := x.owner[x.record.base+int64(i)]; o != nil {
			sent[i] = max(sent[i], o.call)
		}
	}
	var ended []*operation
	for _, o := range x.ops {
		if x.skipped(o) || !x.record.covers(o.revision) {
			continue
		}
		ended = append(ended, o)
		if i := o.revision - x.record.base; o.ret < sent[i] {
			x.fail("holds a write that was sent only at %.3f s: %v", float64(sent[i])/1e9, o)
		}
	}
	sort.Slice(ended, func(i, j int) bool { return ended[i].ret < ended[j].ret })
	calls := append([]*operation{}, ended...)
	sort.Slice(calls, func(i, j int) bool { return calls[i].call < calls[j].call })
	var floor *operation // Of the calls that had ended, the one with the highest revision.
	for _, o := range calls {
		for len(ended) > 0 && ended[0].ret < o.call {
			if floor == nil || ended[0].revision > floor.revision {
				floor = ended[0]
			}
			ended = ended[1:]
		}
		if floor != nil && !o.serializable && o.revision < floor.revision {
			x.fail("stale: %v, after %v", o, floor)
		}
	}
}

// sessions is rule 4. It follows from rule 3 as long as clients make one call at a time; its message is plainer.
func (x *ordered) sessions() {
	last := map[int]*operation{}
	for _, o := range x.ops {
		if !o.answered || o.serializable {
			continue
		}
		if before := last[o.client]; before != nil && before.ret <= o.call && o.revision < before.revision {
			x.fail("a client's revision fell: %v, then %v", before, o)
		}
		last[o.client] = o
	}
}

// values are all values that keys ever had in the record.
func (r *record) values() map[string]bool {
	values := map[string]bool{}
	for _, s := range r.states {
		for _, v := range s {
			values[v.value] = true
		}
	}
	return values
}
