// SPDX-License-Identifier: Apache-2.0

// Package crash kills servers under load and checks afterwards that nothing they acknowledged is lost, that nothing
// appeared which nobody asked for, and that revisions and hashes are those of the history.
package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sort"

	"cairn/tests/harness"
)

// operation is one write that a client sent. Its outcome is either known, from the server's answer, or unknown,
// since the server was killed before it answered.
type operation struct {
	what     string
	puts     []harness.Change // Made in this order, after the deletes.
	deletes  [][2]string      // Key and range end; an empty end is one key.
	lease    int64            // Revoked when not zero.
	guard    string           // When not empty, nothing happens unless this key's mod revision is guardMod.
	guardMod int64

	answered bool
	revision int64       // Of the answer, when something changed.
	changed  bool        // Whether the answer says that something changed.
	previous *harness.KV // The version before, when the answer carried it.
	asked    bool        // Whether previous was asked for.
}

// changes says what the operation does to a store in the model's state.
func (o *operation) changes(m *harness.Model) []harness.Change {
	if o.guard != "" {
		mod := int64(0)
		if kv := m.Get(o.guard, m.Current); kv != nil {
			mod = kv.Mod
		}
		if mod != o.guardMod {
			return nil
		}
	}
	var list []harness.Change
	for _, d := range o.deletes {
		if d[1] == "" {
			if m.Get(d[0], m.Current) != nil {
				list = append(list, harness.Change{Key: d[0], Delete: true})
			}
			continue
		}
		for _, key := range m.Keys(m.Current) {
			if key >= d[0] && key < d[1] {
				list = append(list, harness.Change{Key: key, Delete: true})
			}
		}
	}
	if o.lease != 0 {
		for _, key := range m.Keys(m.Current) {
			if m.Get(key, m.Current).Lease == o.lease {
				list = append(list, harness.Change{Key: key, Delete: true})
			}
		}
	}
	return append(list, o.puts...)
}

// reader is the restarted server, or a model in the checker's own tests.
type reader interface {
	head() (current, compacted int64, err error)
	get(key string, revision int64) (*harness.KV, error)
	all() ([]*harness.KV, error)
	hash(revision int64) (uint32, error)
}

// history holds the model and the operations of the round that is running.
type history struct {
	model    *harness.Model
	rng      *rand.Rand
	ops      []*operation
	compacts map[int64]bool // Revisions at which a compaction was asked for.
	resolved int            // Unknown operations that turned out to be done.
	dropped  int            // And those that turned out not to be.
}

func newHistory(seed uint64) *history {
	return &history{model: harness.NewModel(), rng: rand.New(rand.NewPCG(seed, 1)), compacts: map[int64]bool{}}
}

// settle brings the model to the server's state by the operations of the round, and fails if they don't explain it.
func (h *history) settle(r reader) error {
	current, compacted, err := r.head()
	if err != nil {
		return err
	}
	answered := map[int64]*operation{}
	var unknown []*operation
	for _, o := range h.ops {
		switch {
		case !o.answered:
			unknown = append(unknown, o)
		case o.changed && answered[o.revision] != nil:
			return fmt.Errorf("two writes were answered with revision %d: %s and %s", o.revision,
				answered[o.revision].what, o.what)
		case o.changed && o.revision <= h.model.Current:
			return fmt.Errorf("%s was answered with revision %d, but %d had been reached before", o.what, o.revision,
				h.model.Current)
		case o.changed && o.revision > current:
			return fmt.Errorf("lost: %s was answered with revision %d, the server is at %d", o.what, o.revision, current)
		case o.changed:
			answered[o.revision] = o
		}
	}
	if current < h.model.Current {
		return fmt.Errorf("the revision went back from %d to %d", h.model.Current, current)
	}
	for h.model.Current < current {
		next := h.model.Current + 1
		o := answered[next]
		if o == nil {
			if o, err = h.explain(r, unknown, next); err != nil {
				return err
			}
			unknown = remove(unknown, o)
			h.resolved++
		}
		if err := h.apply(o, next); err != nil {
			return err
		}
	}
	h.dropped += len(unknown)
	h.ops = nil
	if compacted > h.model.Compacted {
		if !h.compacts[compacted] {
			return fmt.Errorf("compacted at %d, which nobody asked for", compacted)
		}
		h.model.Compact(compacted)
	} else if compacted < h.model.Compacted {
		return fmt.Errorf("the compact revision went back from %d to %d", h.model.Compacted, compacted)
	}
	return h.compare(r)
}

// explain finds the operation without an answer that made a revision: of those which fit, the one that changed most,
// since a delete of many keys looks like a delete of each of them.
func (h *history) explain(r reader, unknown []*operation, revision int64) (*operation, error) {
	var best *operation
	most := 0
	for _, o := range unknown {
		changes := o.changes(h.model)
		if len(changes) <= most {
			continue
		}
		fits := true
		for i := 0; fits && i < len(changes); i++ {
			kv, err := r.get(changes[i].Key, revision)
			if err != nil {
				return nil, err
			}
			if last := lastOf(changes, changes[i].Key); last.Delete {
				fits = kv == nil
			} else {
				fits = kv != nil && kv.Mod == revision && bytes.Equal(kv.Value, last.Value)
			}
		}
		if fits {
			best, most = o, len(changes)
		}
	}
	if best == nil {
		return nil, fmt.Errorf("revision %d was made by no write that was sent (%d without an answer)", revision, len(unknown))
	}
	return best, nil
}

func lastOf(changes []harness.Change, key string) harness.Change {
	for i := len(changes) - 1; ; i-- {
		if changes[i].Key == key {
			return changes[i]
		}
	}
}

func remove(list []*operation, o *operation) []*operation {
	for i, x := range list {
		if x == o {
			return append(append([]*operation{}, list[:i]...), list[i+1:]...)
		}
	}
	return list
}

func (h *history) apply(o *operation, revision int64) error {
	changes := o.changes(h.model)
	if len(changes) == 0 {
		return fmt.Errorf("%s was answered with revision %d as a change, but changes nothing there", o.what, revision)
	}
	if o.asked && o.answered {
		before := h.model.Get(changes[0].Key, h.model.Current)
		switch {
		case before == nil && o.previous != nil:
			return fmt.Errorf("%s at %d: a previous version where there was none", o.what, revision)
		case before != nil && o.previous == nil:
			return fmt.Errorf("%s at %d: no previous version where there was one", o.what, revision)
		case before != nil:
			if err := sameKV(before, o.previous); err != nil {
				return fmt.Errorf("%s at %d, previous version: %w", o.what, revision, err)
			}
		}
	}
	if got := h.model.Apply(changes...); got != revision {
		return fmt.Errorf("%s: the model made revision %d of %d", o.what, got, revision)
	}
	return nil
}

func sameKV(want, got *harness.KV) error {
	return want.Same(got.Key, got.Value, got.Create, got.Mod, got.Version, got.Lease)
}

// compare checks every live key and the hashes at the head and at two older revisions.
func (h *history) compare(r reader) error {
	got, err := r.all()
	if err != nil {
		return err
	}
	keys := h.model.Keys(h.model.Current)
	sort.Slice(got, func(i, j int) bool { return bytes.Compare(got[i].Key, got[j].Key) < 0 })
	for i := 0; i < len(keys) || i < len(got); i++ {
		switch {
		case i >= len(got):
			return fmt.Errorf("key %q is missing", keys[i])
		case i >= len(keys):
			return fmt.Errorf("key %q should not exist", got[i].Key)
		}
		if err := sameKV(h.model.Get(keys[i], h.model.Current), got[i]); err != nil {
			return err
		}
	}
	low := max(h.model.Compacted, 1)
	revisions := []int64{h.model.Current}
	for range 2 {
		revisions = append(revisions, low+h.rng.Int64N(h.model.Current-low+1))
	}
	for _, revision := range revisions {
		hash, err := r.hash(revision)
		if err != nil {
			return err
		}
		if want := h.model.HashKV(revision); hash != want {
			return fmt.Errorf("HashKV(%d) at revision %d compacted at %d: the history gives %d, the server %d", revision,
				h.model.Current, h.model.Compacted, want, hash)
		}
	}
	return nil
}
