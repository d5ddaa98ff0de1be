// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// watchWorld is one random sequence of writes and watch requests against a pair of servers. A watcher of all keys on
// each tells what happened (both must agree, event by event); what each other watcher gets is checked against that.
//
// Most writes wait until every watcher of both servers has got their events, so that each response is determined, its
// header revision too; others come in bursts. What may differ then:
//
//   - revisions may come in one response or in several, but none is split, except into fragments that were asked for;
//   - the header revision lies between that of the response's last event and the head;
//   - responses of different watchers come in any order, those of one watcher in its own;
//   - progress notifications and progress answers may be more or fewer, but must be true: nothing up to their
//     revision comes later, no watcher of theirs waits for a later one;
//   - prev_kv is there or not when its revision was compacted between the write and the response; etcd may leave it out
//     of what comes at once behind the answer to a create;
//   - a watcher that has not caught up may, or may not, be canceled by a compaction of what it still needs.
//
// Answers to create and cancel requests are compared in full, one by one.
type watchWorld struct {
	pair   *pair
	gen    *generator
	h      *history
	refs   *twin
	refAt  int
	twins  []*twin
	made   int
	uniq   int64
	share  int64 // Most compactions take less than one part in so many of what is left.
	notify bool  // Progress notifications come, so no id may be used twice.
	name   string
	step   int
	writes int
	counts map[string]int
}

const (
	twinsMax    = 4
	watchersMax = 12
	floodPuts   = 300 // Of 30,000 bytes on average.
	largeShare  = 30  // In a large world compactions leave most of the past.
)

func newWatchWorld(p *pair, g *generator, h *history, name string) (*watchWorld, error) {
	h.etcd = [2]bool{p.oracle.server.Kind == harness.Etcd, p.subject.server.Kind == harness.Etcd}
	w := &watchWorld{pair: p, gen: g, h: h, name: name, uniq: 1000, share: 4, counts: h.counts}
	return w, w.watchAll()
}

// watchAll opens the streams that tell the history.
func (w *watchWorld) watchAll() error {
	var err error
	if w.refs, err = openTwin(w.h, "the history", w.pair.oracle.conn, w.pair.subject.conn); err != nil {
		return err
	}
	w.refAt = 1
	req := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: w.h.head + 1}
	return w.refs.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}})
}

func (w *watchWorld) close() {
	for _, t := range append(w.twins, w.refs) {
		t.close()
	}
	w.twins = nil
}

// run makes steps until there is a difference, which it returns.
func (w *watchWorld) run(steps int) error {
	for w.step = 1; w.step <= steps; w.step++ {
		if err := w.next(); err != nil {
			return fmt.Errorf("%s step %d: %w", w.name, w.step, err)
		}
	}
	if err := w.fence(); err != nil {
		return fmt.Errorf("%s, at the end: %w", w.name, err)
	}
	return nil
}

func (w *watchWorld) next() error {
	g := w.gen
	n := g.rng.IntN(1000)
	if len(w.twins) == 0 {
		n = 999
	}
	switch {
	case n < 430:
		return w.write(true)
	case n < 520:
		for k := 2 + g.rng.IntN(24); k > 0; k-- {
			if err := w.write(false); err != nil {
				return err
			}
		}
		return w.maybeSettle()
	case n < 780:
		return w.create()
	case n < 870:
		return w.cancel()
	case n < 930:
		return w.askProgress()
	case n < 960:
		return w.compact()
	case n < 972:
		return w.junk()
	case n < 982 && w.share == largeShare:
		return w.big()
	case n < 992 && w.share == largeShare:
		return w.stall()
	}
	return w.streams()
}

func (w *watchWorld) any() *twin { return w.twins[w.gen.rng.IntN(len(w.twins))] }

// recall waits until both servers have told what happened up to now, and compares.
func (w *watchWorld) recall() error {
	refs := w.refs
	deadline := time.After(watchLimit)
	for w.h.head < w.gen.cur {
		var r [2]*pb.WatchResponse
		for side, c := range refs.sides {
			for r[side] == nil {
				var err error
				if r[side], err = c.at(w.refAt); err != nil {
					return fmt.Errorf("%s: the watcher of all keys: %w", sideNames[side], err)
				}
				if r[side] != nil {
					break
				}
				select {
				case <-c.fresh:
				case <-deadline:
					return fmt.Errorf("%s: the watcher of all keys is not told of revision %d; head %d", sideNames[side],
						w.h.head+1, w.gen.cur)
				}
			}
		}
		if err := w.learn(r); err != nil {
			return err
		}
		w.refAt++
	}
	return nil
}

// learn takes one revision's events from each server. The servers may join revisions in their answers: what is too
// much for now is put back.
func (w *watchWorld) learn(r [2]*pb.WatchResponse) error {
	var list [2][]*mvccpb.Event
	for side, c := range w.refs.sides {
		if len(r[side].Events) == 0 {
			return fmt.Errorf("%s: the watcher of all keys was sent { %s }", sideNames[side], brief(r[side]))
		}
		first := r[side].Events[0].Kv.ModRevision
		n := 0
		for n < len(r[side].Events) && r[side].Events[n].Kv.ModRevision == first {
			n++
		}
		list[side] = r[side].Events[:n]
		if n < len(r[side].Events) {
			c.insert(w.refAt+1, &pb.WatchResponse{Header: r[side].Header, WatchId: r[side].WatchId,
				Events: r[side].Events[n:]})
		}
	}
	for i := range max(len(list[0]), len(list[1])) {
		if i >= len(list[0]) || i >= len(list[1]) || !proto.Equal(list[0][i], list[1][i]) {
			return fmt.Errorf("the histories differ at revision %d\n etcd:  %s\n cairn: %s", w.h.head+1, brief(r[0]), brief(r[1]))
		}
	}
	return w.h.add(list[0])
}

func (w *watchWorld) settle() error {
	if err := w.recall(); err != nil {
		return err
	}
	for _, t := range w.twins {
		if err := t.settle(); err != nil {
			return err
		}
	}
	return w.reconcile()
}

func (w *watchWorld) maybeSettle() error {
	if w.gen.chance(500) {
		return w.settle()
	}
	return nil
}

// reconcile cancels watchers that a compaction overtook on one server only.
func (w *watchWorld) reconcile() error {
	for _, t := range w.twins {
		for _, id := range slices.Sorted(maps.Keys(t.watchers)) {
			if x := t.watchers[id]; x.seen[0].ended != x.seen[1].ended {
				w.counts["overtaken on one side"]++
				if err := w.cancelOne(t, id); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// create opens a watcher. Some are not waited for while writes go on.
func (w *watchWorld) create() error {
	t := w.any()
	if len(t.watchers) >= watchersMax {
		return w.cancel()
	}
	c := w.createRequest(t)
	hasty := c.StartRevision > 0 && w.gen.chance(200)
	if err := w.recall(); err != nil {
		return err
	}
	comp, head := w.h.comp, w.h.head
	req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}}
	if err := t.send(req); err != nil {
		return err
	}
	for k := w.gen.rng.IntN(6); hasty && k > 0; k-- {
		if err := w.write(false); err != nil {
			return err
		}
	}
	if hasty {
		if err := w.recall(); err != nil {
			return err
		}
	}
	r, err := t.control(req, hasty)
	if err != nil {
		return err
	}
	if r.Header.Revision < head || r.Header.Revision > w.h.head {
		return fmt.Errorf("created at revision %d, between %d and %d", r.Header.Revision, head, w.h.head)
	}
	w.counts["created"]++
	if r.Canceled {
		w.counts[r.CancelReason]++
		return nil
	}
	x := &watcher{id: r.WatchId, req: c, from: c.StartRevision, comp: comp, asked: len(t.asked)}
	if x.from == 0 {
		x.from = head + 1
	}
	x.seen[0].next = w.h.index(x.from)
	x.seen[1] = x.seen[0]
	if t.watchers[x.id] != nil {
		return fmt.Errorf("watch id %d was given twice", x.id)
	}
	t.watchers[x.id] = x
	return w.maybeSettle()
}

func (w *watchWorld) cancel() error {
	g := w.gen
	t := w.any()
	ids := slices.Sorted(maps.Keys(t.watchers))
	if len(ids) == 0 || g.chance(150) {
		id := g.pick(0, -1, 77, math.MaxInt64, 3)
		if t.watchers[id] != nil {
			return nil
		}
		w.counts["unknown id canceled"]++ // Answered by nothing: whatever came would be found at the next answer.
		return t.send(cancelRequest(id))
	}
	id := ids[g.rng.IntN(len(ids))]
	if g.chance(700) {
		if err := w.settle(); err != nil || t.watchers[id] == nil {
			return err
		}
	} else if id < 1000 || w.notify {
		return nil
	}
	return w.cancelOne(t, id)
}

func cancelRequest(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

func (w *watchWorld) cancelOne(t *twin, id int64) error {
	if err := w.recall(); err != nil {
		return err
	}
	req := cancelRequest(id)
	if err := t.send(req); err != nil {
		return err
	}
	r, err := t.control(req, false)
	if err != nil {
		return err
	}
	if r.WatchId != id || !r.Canceled || r.Created || r.Header.Revision != w.h.head {
		return fmt.Errorf("the answer to a cancel of %d at revision %d is { %s }", id, w.h.head, brief(r))
	}
	w.counts["canceled"]++
	delete(t.watchers, id)
	t.gone[id] = true
	for side := range t.sides {
		delete(t.notified[side], id)
	}
	return nil
}

// askProgress asks for progress. If everything is settled both must tell the head; etcd tells nothing when it is
// asked while a watcher is not in step, so it is asked again.
func (w *watchWorld) askProgress() error {
	t := w.any()
	req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	if err := w.maybeSettle(); err != nil {
		return err
	}
	if w.gen.chance(300) || !t.determined() {
		w.counts["progress asked"]++
		return t.send(req)
	}
	if err := w.settle(); err != nil {
		return err
	}
	told := func(side int) bool { return t.last[side] == w.h.head }
	for try := 0; t.determined(); try++ {
		if err := t.send(req); err != nil {
			return err
		}
		err := t.wait("progress", 200*time.Millisecond<<min(try, 6), told)
		if err == nil || try > 7 {
			w.counts["progress told"]++
			return err
		}
		if told(0) && !told(1) && try < 7 || told(1) && !told(0) {
			continue
		}
	}
	return nil
}

// junk sends requests that ask for nothing.
func (w *watchWorld) junk() error {
	t := w.any()
	if w.gen.chance(600) {
		r := &pb.WatchRequest{}
		if w.gen.chance(500) {
			r.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 1))
		}
		return t.send(r)
	}
	return errors.Join(t.sides[0].stream.CloseSend(), t.sides[1].stream.CloseSend(), w.forget(t))
}

// streams opens and closes streams.
func (w *watchWorld) streams() error {
	if len(w.twins) == twinsMax || len(w.twins) > 1 && w.gen.chance(300) {
		t := w.any()
		if err := w.maybeSettle(); err != nil {
			return err
		}
		t.close()
		w.twins = slices.DeleteFunc(w.twins, func(x *twin) bool { return x == t })
		return nil
	}
	w.made++
	t, err := openTwin(w.h, fmt.Sprintf("stream %d", w.made), w.pair.oracle.conn, w.pair.subject.watchConn())
	if err == nil {
		w.twins = append(w.twins, t)
	}
	return err
}

// forget lets a stream that the client has half closed live through one more write, since it still gets events.
func (w *watchWorld) forget(t *twin) error {
	w.counts["half closed"]++
	if err := w.write(true); err != nil {
		return err
	}
	t.close()
	w.twins = slices.DeleteFunc(w.twins, func(x *twin) bool { return x == t })
	return nil
}

// fence ends a world: everything must have come, and nothing that should not.
func (w *watchWorld) fence() error {
	if err := w.settle(); err != nil {
		return err
	}
	for range 2 {
		if err := w.call(Step{"Put", &pb.PutRequest{Key: []byte("fence")}}); err != nil {
			return err
		}
		for _, t := range w.twins {
			c := &pb.WatchCreateRequest{Key: []byte("fence"), StartRevision: w.gen.cur, WatchId: 1<<40 + w.gen.cur}
			req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: c}}
			if err := w.recall(); err != nil {
				return err
			}
			if err := t.send(req); err != nil {
				return err
			}
			if _, err := t.control(req, false); err != nil {
				return err
			}
			x := &watcher{id: c.WatchId, req: c, from: c.StartRevision, comp: w.h.comp, asked: len(t.asked)}
			x.seen[0].next = w.h.index(x.from)
			x.seen[1] = x.seen[0]
			t.watchers[x.id] = x
		}
		if err := w.settle(); err != nil {
			return err
		}
	}
	return w.notifications()
}

// notifications waits, where they come, for one for every watcher that asked, at the head.
func (w *watchWorld) notifications() error {
	for _, t := range w.twins {
		err := t.wait("a progress notification", watchLimit, func(side int) bool {
			for id, x := range t.watchers {
				due := w.notify && x.req.ProgressNotify && x.req.StartRevision <= w.h.head && !x.seen[side].ended
				if due && t.notified[side][id] != w.h.head {
					return false
				}
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// restart restarts both servers; all streams end.
func (w *watchWorld) restart(kill bool) error {
	if err := w.settle(); err != nil {
		return err
	}
	if err := w.pair.restart(kill); err != nil {
		return err
	}
	for _, t := range append(w.twins, w.refs) {
		for side, c := range t.sides {
			select {
			case <-c.ended:
			case <-time.After(watchLimit):
				return fmt.Errorf("%s, %s did not end with its server", sideNames[side], t.name)
			}
		}
		t.close()
	}
	w.twins = nil
	return w.watchAll()
}
