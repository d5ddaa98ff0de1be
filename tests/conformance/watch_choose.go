// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"maps"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What a world writes, and what watchers it asks for.

// past makes a history so long that it is told in several responses, and in fragments.
func (w *watchWorld) past() error {
	w.share = largeShare
	for i := range 1200 {
		r := &pb.PutRequest{Key: w.gen.key(), Value: []byte{byte(i)}}
		if i%30 == 0 {
			r.Value = w.gen.bytes(30000 + w.gen.rng.IntN(30000))
		}
		if err := w.call(Step{"Put", r}); err != nil {
			return err
		}
	}
	return nil
}

// stall does not read a stream while more is written than a server should keep for it, and while some of that is
// compacted. Then everything must come, or what was compacted must be said to be.
func (w *watchWorld) stall() error {
	t := w.any()
	for _, c := range t.sides {
		c.gate.Lock()
	}
	err := w.flood()
	for _, c := range t.sides {
		c.gate.Unlock()
	}
	w.counts["stalled"]++
	if err != nil {
		return err
	}
	return w.settle()
}

func (w *watchWorld) flood() error {
	compactAt := w.gen.rng.IntN(2 * floodPuts)
	for i := range floodPuts {
		r := &pb.PutRequest{Key: w.gen.key(), Value: w.gen.bytes(w.gen.rng.IntN(60000))}
		if err := w.call(Step{"Put", r}); err != nil {
			return err
		}
		if i == compactAt {
			if err := w.compactTo(w.gen.cur - w.gen.rng.Int64N(20)); err != nil {
				return err
			}
		}
	}
	return nil
}

// big makes one revision that is larger than a fragment, where prev_kv is asked for.
func (w *watchWorld) big() error {
	for i := range 25 {
		r := &pb.PutRequest{Key: fmt.Appendf(nil, "s%02d", i), Value: w.gen.bytes(40000)}
		if err := w.call(Step{"Put", r}); err != nil {
			return err
		}
	}
	w.counts["big"]++
	if err := w.call(Step{"DeleteRange", &pb.DeleteRangeRequest{Key: []byte("s"), RangeEnd: []byte("t")}}); err != nil {
		return err
	}
	return w.settle()
}

// write changes something on both servers; settled waits for its events everywhere.
func (w *watchWorld) write(settled bool) error {
	g := w.gen
	var s Step
	switch n := g.rng.IntN(100); {
	case n < 45:
		s = Step{"Put", g.putRequest()}
	case n < 62:
		s = Step{"DeleteRange", g.deleteRequest()}
	case n < 90:
		s = Step{"Txn", g.txnRequest()}
	case n < 96:
		s = Step{"LeaseGrant", g.grantRequest()}
	default:
		s = Step{"LeaseRevoke", &pb.LeaseRevokeRequest{ID: g.lease(100)}}
	}
	if err := w.call(s); err != nil || !settled {
		return err
	}
	return w.settle()
}

func (w *watchWorld) call(s Step) error {
	oracle, subject := w.pair.call(s.Kind, s.Req)
	if !same(normal(s.Kind, oracle), normal(s.Kind, subject), 1) {
		return fmt.Errorf("the answers to %s { %s } differ\n etcd:\n%s cairn:\n%s", s.Kind, brief(s.Req), oracle, subject)
	}
	w.writes++
	w.gen.Observe(s, oracle)
	return nil
}

func (w *watchWorld) createRequest(t *twin) *pb.WatchCreateRequest {
	g := w.gen
	c := &pb.WatchCreateRequest{Key: g.key(), StartRevision: w.start(), PrevKv: g.chance(400), Fragment: g.chance(300),
		ProgressNotify: g.chance(300), WatchId: w.id(t)}
	if g.chance(650) {
		c.RangeEnd = g.rangeEnd(c.Key, 700)
	}
	for g.chance(300) {
		c.Filters = append(c.Filters, pb.WatchCreateRequest_FilterType(g.pick(0, 1, 0, 1, 2, -3)))
	}
	return c
}

// start chooses a start revision.
func (w *watchWorld) start() int64 {
	g := w.gen
	low := max(g.comp, 1)
	switch n := g.rng.IntN(100); {
	case n < 35:
		return 0
	case n < 65:
		return low + g.rng.Int64N(g.cur-low+1)
	case n < 72:
		return max(1, g.cur-g.rng.Int64N(8))
	case n < 80:
		return g.cur + 1
	case n < 88:
		return g.cur + 2 + g.rng.Int64N(20)
	case n < 94:
		return max(1, g.comp+g.rng.Int64N(4)-2)
	case n < 97:
		return g.pick(-1, -2, math.MinInt64)
	}
	return g.pick(1, math.MaxInt64, math.MaxInt64-2)
}

// id chooses a watch id. Where responses may be on their way to a watcher that is no more, none is used twice: etcd
// would hand them to the next of that id.
func (w *watchWorld) id(t *twin) int64 {
	g := w.gen
	switch n := g.rng.IntN(100); {
	case n < 55:
		return 0
	case n < 60 && len(t.watchers) > 0: // A duplicate.
		ids := slices.Sorted(maps.Keys(t.watchers))
		return ids[g.rng.IntN(len(ids))]
	case n < 85 && !w.notify:
		if id := 1 + g.rng.Int64N(20); !t.gone[id] {
			return id
		}
	case n < 90 && !w.notify:
		if id := g.pick(-7, -2, math.MinInt64, math.MaxInt64, 1<<33); !t.gone[id] {
			return id
		}
	}
	w.uniq++
	return w.uniq
}

// compact compacts. A compaction that is not waited for goes on while watchers read what is left.
func (w *watchWorld) compact() error {
	if err := w.maybeSettle(); err != nil {
		return err
	}
	if err := w.recall(); err != nil {
		return err
	}
	c := w.gen.compactRequest()
	if w.gen.chance(600) || w.share > 4 { // Not too much, or there is no past to watch.
		c.Revision = max(w.gen.comp, 0) + w.gen.rng.Int64N(max(1, (w.gen.cur-w.gen.comp)/w.share))
		for c.Revision > w.gen.comp && w.gen.risky[c.Revision] {
			c.Revision--
		}
	}
	return w.compactAs(c)
}

func (w *watchWorld) compactTo(revision int64) error {
	for w.gen.risky[revision] {
		revision--
	}
	if err := w.recall(); err != nil {
		return err
	}
	return w.compactAs(&pb.CompactionRequest{Revision: revision})
}

func (w *watchWorld) compactAs(c *pb.CompactionRequest) error {
	before := w.gen.comp
	if err := w.call(Step{"Compact", c}); err != nil {
		return err
	}
	if w.gen.comp != before || c.Revision == before {
		w.h.compacted(w.gen.comp)
		w.counts["compacted"]++
	}
	return nil
}
