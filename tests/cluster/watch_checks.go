// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
)

// told is one response of a watch as a client got it.
type told struct {
	revision int64   // Of the header.
	events   []event // None: a progress notification.
}

// event is one change. Without prev_kv the second version stays empty.
type event struct {
	key   string
	mod   int64
	now   version // Empty: the key was removed.
	prior version
}

func (e event) String() string {
	if e.now.value == "" {
		return fmt.Sprintf("%d: %s removed (was %+v)", e.mod, e.key, e.prior)
	}
	return fmt.Sprintf("%d: %s = %+v (was %+v)", e.mod, e.key, e.now, e.prior)
}

// opening is one call of Watch and what it was told until it ended. Behind a client's back it may have been resumed
// at several members.
type opening struct {
	from int64
	got  []told
}

// watched is a watcher: what it asked for, and all its openings, each from where the one before ended.
type watched struct {
	name              string
	key, end          string // One key if there is no end.
	noPuts, noDeletes bool
	prior             bool // It asked for previous versions.
	openings          []opening
}

func (w *watched) wants(e event) bool {
	switch {
	case w.noPuts && e.now.value != "", w.noDeletes && e.now.value == "":
		return false
	case w.end == "":
		return e.key == w.key
	}
	return e.key >= w.key && e.key < w.end
}

// events returns the changes of one revision, in no order, as the stores before and after it differ.
func (r *record) events(revision int64) (list []event) {
	before, after := r.at(revision-1), r.at(revision)
	for key, v := range after {
		if v.mod == revision {
			list = append(list, event{key, revision, v, before[key]})
		}
	}
	for key, v := range before {
		if after[key].value == "" {
			list = append(list, event{key, revision, version{}, v})
		}
	}
	return list
}

// owed returns what a watcher is to be told from a revision on, by revision.
func (r *record) owed(w *watched, from int64) map[int64]map[string]event {
	all := map[int64]map[string]event{}
	for revision := max(from, r.base+1); revision <= r.head(); revision++ {
		for _, e := range r.events(revision) {
			if !w.wants(e) {
				continue
			}
			if !w.prior {
				e.prior = version{}
			}
			if all[revision] == nil {
				all[revision] = map[string]event{}
			}
			all[revision][e.key] = e
		}
	}
	return all
}

// checkWatched says how a watcher's promises were broken, if they were. The truth is the store at every revision,
// which was read without any watch. Promises, as etcd's documentation makes them:
//
//	ordered       revisions never fall
//	unique        no event comes twice
//	reliable      none is missing between two that came, and each tells what happened
//	atomic        the events of a revision come in one response
//	resumable     a watch from a revision begins with the first event from there on
//	bookmarkable  after progress at a revision no event up to it comes
//	filtered      only what was asked for comes
//
// complete demands that all up to the record's head has come.
func checkWatched(r *record, w *watched, complete bool) error {
	c := watchCheck{r: r, w: w}
	for i, o := range w.openings {
		c.opening(o, complete && i == len(w.openings)-1)
	}
	return errors.Join(c.errs...)
}

// watchCheck walks through what a watcher was told. Each promise is looked at by itself, so that a history that breaks
// one is not refused for another by accident: the self-tests count on that.
type watchCheck struct {
	r    *record
	w    *watched
	errs []error
}

func (c *watchCheck) fail(promise, format string, args ...any) {
	if len(c.errs) < errorsMax {
		c.errs = append(c.errs, fmt.Errorf("watcher %s: not %s: %s", c.w.name, promise, fmt.Sprintf(format, args...)))
	}
}

func (c *watchCheck) opening(o opening, complete bool) {
	c.ordered(o)
	c.unique(o)
	c.atomic(o)
	c.bookmarkable(o)
	c.filtered(o)
	c.resumable(o)
	c.reliable(o, complete)
}

func (c *watchCheck) ordered(o opening) {
	last := int64(0)
	for _, t := range o.got {
		for _, e := range t.events {
			if e.mod < last {
				c.fail("ordered", "%v behind revision %d", e, last)
			}
			last = e.mod
		}
		if len(t.events) > 0 && t.revision < last {
			c.fail("ordered", "header revision %d of %v", t.revision, t.events[len(t.events)-1])
		}
	}
}

func (c *watchCheck) unique(o opening) {
	type id struct {
		key string
		mod int64
	}
	seen := map[id]bool{}
	for _, t := range o.got {
		for _, e := range t.events {
			if seen[id{e.key, e.mod}] {
				c.fail("unique", "%v came twice", e)
			}
			seen[id{e.key, e.mod}] = true
		}
	}
}

func (c *watchCheck) atomic(o opening) {
	at := map[int64]int{}
	for i, t := range o.got {
		for _, e := range t.events {
			if before, ok := at[e.mod]; ok && before != i {
				c.fail("atomic", "%v came apart from others of its revision", e)
			}
			at[e.mod] = i
		}
	}
}

func (c *watchCheck) bookmarkable(o opening) {
	mark := int64(0)
	for _, t := range o.got {
		if len(t.events) == 0 {
			if t.revision < mark {
				c.fail("bookmarkable", "progress at %d behind progress at %d", t.revision, mark)
			}
			mark = t.revision
		}
		for _, e := range t.events {
			if e.mod <= mark {
				c.fail("bookmarkable", "%v behind progress at %d", e, mark)
			}
		}
	}
}

func (c *watchCheck) filtered(o opening) {
	for _, t := range o.got {
		for _, e := range t.events {
			if !c.w.wants(e) {
				c.fail("filtered", "%v was not asked for", e)
			}
		}
	}
}

// resumable looks at the first event of an opening.
func (c *watchCheck) resumable(o opening) {
	for _, t := range o.got {
		for _, e := range t.events {
			if e.mod < o.from {
				c.fail("resumable", "%v in a watch from %d", e, o.from)
			}
		}
	}
	first := int64(0)
	for _, t := range o.got {
		if len(t.events) > 0 {
			first = t.events[0].mod
			break
		}
	}
	for revision := max(o.from, c.r.base+1); revision < first && revision <= c.r.head(); revision++ {
		for _, e := range c.r.events(revision) {
			if c.w.wants(e) {
				c.fail("resumable", "a watch from %d begins at %d, without %v", o.from, first, e)
			}
		}
	}
}

// reliable compares with the truth: what an event says, and that none is missing behind the first.
func (c *watchCheck) reliable(o opening, complete bool) {
	owed := c.r.owed(c.w, o.from)
	first, last := int64(0), int64(0)
	for _, t := range o.got {
		for _, e := range t.events {
			if first == 0 {
				first = e.mod
			}
			last = max(last, e.mod)
			want, ok := owed[e.mod][e.key]
			if ok && want != e {
				c.fail("reliable", "told %v instead of %v", e, want)
			} else if !ok && c.w.wants(e) && e.mod >= o.from && c.r.covers(e.mod) && e.mod > c.r.base {
				c.fail("reliable", "told %v, which never happened", e)
			}
			if ok {
				owed[e.mod][e.key] = event{}
			}
		}
		if len(t.events) == 0 { // Progress: all up to it has come.
			last = max(last, t.revision)
			if first == 0 {
				first = o.from
			}
		}
	}
	if complete {
		first, last = o.from, c.r.head()
	}
	for revision := first; revision <= last; revision++ {
		for _, e := range owed[revision] {
			if e.mod != 0 {
				c.fail("reliable", "%v is missing", e)
			}
		}
	}
}
