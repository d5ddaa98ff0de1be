// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
)

// soundWatch makes what a right cluster would tell a watcher of a record: events in responses of one or several
// revisions, progress between them, several openings.
func soundWatch(rng *rand.Rand, r *record, w *watched) *watched {
	owed := r.owed(w, r.base+1)
	w.openings = []opening{{from: r.base + 1}}
	current := told{}
	flush := func(revision int64) {
		o := &w.openings[len(w.openings)-1]
		if len(current.events) > 0 {
			current.revision = revision
			o.got = append(o.got, current)
			current = told{}
		}
		if rng.IntN(5) == 0 {
			o.got = append(o.got, told{revision: revision})
		}
		if rng.IntN(40) == 0 {
			w.openings = append(w.openings, opening{from: revision + 1})
		}
	}
	for revision := r.base + 1; revision <= r.head(); revision++ {
		var list []event
		for _, e := range owed[revision] {
			list = append(list, e)
		}
		sort.Slice(list, func(i, j int) bool { return list[i].key < list[j].key })
		current.events = append(current.events, list...)
		if rng.IntN(3) > 0 || revision == r.head() {
			flush(revision)
		}
	}
	return w
}

func soundWatchers() []*watched {
	return []*watched{
		{name: "all", key: "a", end: "z", prior: true},
		{name: "without previous", key: "a", end: "z"},
		{name: "some", key: "b", end: "z"},
		{name: "key", key: "b", prior: true},
		{name: "deletes", key: "a", end: "z", noPuts: true, prior: true},
		{name: "puts", key: "a", end: "z", noDeletes: true},
	}
}

func TestWatchChecksAcceptWhatIsRight(t *testing.T) {
	for seed := uint64(0); seed < 40; seed++ {
		s := newSound(seed).fill(300)
		for _, w := range soundWatchers() {
			if err := checkWatched(s.record, soundWatch(s.rng, s.record, w), true); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// somewhere calls change for responses from the middle on, until one fits.
func (w *watched) somewhere(change func(o *opening, i int) bool) bool {
	for n := len(w.openings) / 2; n < len(w.openings); n++ {
		o := &w.openings[n]
		for i := range o.got {
			if i > 0 && change(o, i) {
				return true
			}
		}
	}
	return false
}

// TestWatchChecksRefuseWhatIsWrong plants one violation of each promise, and demands that the check of that promise
// says so.
func TestWatchChecksRefuseWhatIsWrong(t *testing.T) {
	for _, x := range []struct {
		name, promise string
		watcher       int
		plant         func(w *watched) bool
	}{
		{"two revisions in the other order", "ordered", 0, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				a, b := o.got[i-1].events, o.got[i].events
				if len(a) == 0 || len(b) == 0 {
					return false
				}
				o.got[i-1].events, o.got[i].events = b, a
				return true
			})
		}},
		{"a header revision before its events", "ordered", 1, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				o.got[i].revision--
				return len(o.got[i].events) > 0 && o.got[i].revision < o.got[i].events[len(o.got[i].events)-1].mod
			})
		}},
		{"a response twice", "unique", 0, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				if len(o.got[i].events) == 0 {
					return false
				}
				o.got = slices.Insert(o.got, i, o.got[i])
				return true
			})
		}},
		{"an event twice in a response", "unique", 0, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				if len(o.got[i].events) == 0 {
					return false
				}
				o.got[i].events = append(slices.Clone(o.got[i].events), o.got[i].events[len(o.got[i].events)-1])
				return true
			})
		}},
		{"a response lost", "reliable", 0, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				if len(o.got[i].events) == 0 || len(o.got[i-1].events) == 0 || i == len(o.got)-1 {
					return false
				}
				o.got = slices.Delete(o.got, i, i+1)
				return true
			})
		}},
		{"the last event lost", "reliable", 0, func(w *watched) bool {
			o := &w.openings[len(w.openings)-1]
			for i := len(o.got) - 1; i >= 0; i-- {
				if len(o.got[i].events) > 0 {
					o.got = o.got[:i]
					return true
				}
			}
			return false
		}},
		{"another value", "reliable", 1, func(w *watched) bool { return w.event(func(e *event) { e.now.value += "x" }) }},
		{"another version", "reliable", 1, func(w *watched) bool { return w.event(func(e *event) { e.now.version++ }) }},
		{"another previous version", "reliable", 0, func(w *watched) bool { return w.event(func(e *event) { e.prior.mod++ }) }},
		{"no previous version", "reliable", 3, func(w *watched) bool {
			return w.event(func(e *event) { e.prior = version{} })
		}},
		{"what never happened", "reliable", 3, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				e, before := o.got[i].events, o.got[i-1]
				if len(e) == 0 || len(before.events) == 0 || e[0].mod == before.revision+1 {
					return false
				}
				e = slices.Clone(e)
				ghost := e[0]
				ghost.mod--
				o.got[i].events = slices.Insert(e, 0, ghost)
				return true
			})
		}},
		{"a revision in two responses", "atomic", 1, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				e := o.got[i].events
				for n := 1; n < len(e); n++ {
					if e[n].mod == e[n-1].mod {
						rest := o.got[i]
						rest.events = e[n:]
						o.got[i].events = e[:n]
						o.got = slices.Insert(o.got, i+1, rest)
						return true
					}
				}
				return false
			})
		}},
		{"begun too late", "resumable", 0, func(w *watched) bool {
			o := &w.openings[len(w.openings)-1]
			for i := range o.got {
				if len(o.got[i].events) > 0 {
					o.got = o.got[i+1:]
					return len(o.got) > 0 && len(o.got[0].events) > 0
				}
			}
			return false
		}},
		{"begun too early", "resumable", 0, func(w *watched) bool {
			o := &w.openings[0]
			o.from = o.got[len(o.got)/2].revision
			return true
		}},
		{"progress too early", "bookmarkable", 0, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				if len(o.got[i].events) == 0 {
					return false
				}
				o.got = slices.Insert(o.got, i, told{revision: o.got[i].events[0].mod})
				return true
			})
		}},
		{"progress that falls", "bookmarkable", 0, func(w *watched) bool {
			return w.somewhere(func(o *opening, i int) bool {
				if len(o.got[i].events) > 0 {
					return false
				}
				o.got = slices.Insert(o.got, i+1, told{revision: o.got[i].revision - 1})
				return true
			})
		}},
		{"another key", "filtered", 3, func(w *watched) bool { return w.event(func(e *event) { e.key = "c" }) }},
		{"a key behind the range", "filtered", 2, func(w *watched) bool { return w.event(func(e *event) { e.key = "a" }) }},
		{"a put for who wants deletes", "filtered", 4, func(w *watched) bool {
			return w.event(func(e *event) { e.now = version{"v", 9, 9, 1} })
		}},
	} {
		planted, refused := 0, 0
		for seed := uint64(0); seed < 20; seed++ {
			s := newSound(seed).fill(300)
			w := soundWatch(s.rng, s.record, soundWatchers()[x.watcher])
			if !x.plant(w) {
				continue
			}
			planted++
			err := checkWatched(s.record, w, true)
			if err != nil && strings.Contains(err.Error(), "not "+x.promise) {
				refused++
			} else {
				t.Logf("%s, seed %d: %v", x.name, seed, err)
			}
		}
		if planted == 0 || refused < planted {
			t.Errorf("%s: planted %d times, refused as not %s %d times", x.name, planted, x.promise, refused)
		}
	}
}

// event changes one event of an opening that has a previous version.
func (w *watched) event(change func(*event)) bool {
	return w.somewhere(func(o *opening, i int) bool {
		if len(o.got[i].events) == 0 || w.prior && o.got[i].events[0].prior.value == "" {
			return false
		}
		o.got[i].events = slices.Clone(o.got[i].events)
		change(&o.got[i].events[0])
		return true
	})
}
