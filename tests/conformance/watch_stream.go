// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// watchLimit is how long a response may take that must come.
var watchLimit = 30 * time.Second

// watchClient is one watch stream to one server; a goroutine collects what comes.
type watchClient struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
	ended  chan struct{}
	gate   sync.Mutex // Who holds it keeps the goroutine from reading.

	mu    sync.Mutex
	got   []*pb.WatchResponse
	err   error
	fresh chan struct{} // Has an element when got has grown or the stream has ended.
}

func openWatch(conn grpc.ClientConnInterface) (*watchClient, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(conn).Watch(ctx, grpc.WaitForReady(true))
	if err != nil {
		cancel()
		return nil, err
	}
	c := &watchClient{stream: stream, cancel: cancel, ended: make(chan struct{}), fresh: make(chan struct{}, 1)}
	go c.collect()
	return c, nil
}

func (c *watchClient) collect() {
	defer close(c.ended)
	for {
		c.gate.Lock()
		c.gate.Unlock()
		r, err := c.stream.Recv()
		c.mu.Lock()
		if err != nil {
			c.err = err
		} else {
			c.got = append(c.got, r)
		}
		c.mu.Unlock()
		select {
		case c.fresh <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// at returns a response, nil when it has not come yet, and an error when it never will.
func (c *watchClient) at(n int) (*pb.WatchResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < len(c.got) {
		return c.got[n], nil
	}
	return nil, c.err
}

// wait returns a response when it has come.
func (c *watchClient) wait(n int) (*pb.WatchResponse, error) {
	deadline := time.After(watchLimit)
	for {
		if r, err := c.at(n); r != nil || err != nil {
			return r, err
		}
		select {
		case <-c.fresh:
		case <-deadline:
			return nil, fmt.Errorf("no response in %v", watchLimit)
		}
	}
}

// insert puts a response before those from n on.
func (c *watchClient) insert(n int, r *pb.WatchResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = slices.Insert(c.got, n, r)
}

func (c *watchClient) close() {
	c.cancel()
	<-c.ended
}

// twin is one watch stream, opened to both servers.
type twin struct {
	h        *history
	name     string
	sides    [2]*watchClient
	taken    [2]int               // How many responses were looked at.
	controls [2]*pb.WatchResponse // The next answer to a request, not compared yet.
	asked    []int                // The progress requests: how many watchers there were at each.
	answers  [2]int               // To so many of them, at least; etcd passes some over.
	before   [2]int               // So many had been sent when a create or cancel request was last answered,
	since    [2]int64             // which was at this revision.
	passed   [2]int               // So many are answered or passed over, since there was a later response.
	last     [2]int64             // The revision of the last progress answer.
	fresh    [2]int64             // The watcher told of last as created, while nothing but its events has come; or -1.
	watchers map[int64]*watcher
	notified [2]map[int64]int64 // Of progress_notify: the revision.
	gone     map[int64]bool     // Ids of watchers that were canceled before all had come.
}

func openTwin(h *history, name string, conns ...grpc.ClientConnInterface) (*twin, error) {
	t := &twin{h: h, name: name, watchers: map[int64]*watcher{}, gone: map[int64]bool{},
		notified: [2]map[int64]int64{{}, {}}}
	for i, conn := range conns {
		var err error
		if t.sides[i], err = openWatch(conn); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *twin) close() {
	for _, c := range t.sides {
		c.close()
	}
}

func (t *twin) send(r *pb.WatchRequest) error {
	if _, ok := r.RequestUnion.(*pb.WatchRequest_ProgressRequest); ok {
		t.asked = append(t.asked, len(t.watchers))
	}
	for _, c := range t.sides {
		if err := c.stream.Send(proto.Clone(r).(*pb.WatchRequest)); err != nil {
			return err
		}
	}
	return nil
}

var sideNames = [2]string{"etcd", "cairn"}

// pull judges what one server has sent, as far as the next answer to a create or cancel request.
func (t *twin) pull(side int) error {
	for t.controls[side] == nil {
		r, err := t.sides[side].at(t.taken[side])
		if err != nil {
			return fmt.Errorf("%s, %s: the stream ended: %w", sideNames[side], t.name, err)
		}
		if r == nil {
			return nil
		}
		t.taken[side]++
		if err := t.judge(side, r); err != nil {
			return fmt.Errorf("%s, %s, response %d { %s }: %w", sideNames[side], t.name, t.taken[side], brief(r), err)
		}
	}
	return nil
}

func (t *twin) judge(side int, r *pb.WatchResponse) error {
	if h := r.Header; h == nil || h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
		return fmt.Errorf("header { %v }", h)
	}
	if r.Created || r.Canceled && r.CompactRevision == 0 {
		t.controls[side] = r
		t.before[side], t.since[side] = len(t.asked), r.Header.Revision
		if t.fresh[side] = -1; r.Created {
			t.fresh[side] = r.WatchId
		}
		return nil
	}
	if t.fresh[side] != r.WatchId {
		t.fresh[side] = -1
	}
	// In etcd those may overtake progress answers of before; what came about at a later revision does not.
	if r.Header.Revision > t.since[side] {
		t.passed[side] = t.before[side]
	}
	if r.WatchId == -1 {
		return t.progress(side, r)
	}
	w := t.watchers[r.WatchId]
	switch {
	case w == nil:
		return fmt.Errorf("there is no watcher %d", r.WatchId)
	case r.CompactRevision != 0 || r.Canceled:
		return t.h.overtaken(w, side, r)
	case r.CancelReason != "":
		return fmt.Errorf("a reason without a cancel")
	case len(r.Events) > 0:
		return t.h.accept(w, side, r, t.h.etcd[side] && t.fresh[side] == w.id)
	case !w.req.ProgressNotify:
		return fmt.Errorf("watcher %d did not ask for progress notifications", w.id)
	}
	t.notified[side][w.id] = r.Header.Revision
	return t.h.progressed(w, side, r.Header.Revision)
}

// progress checks the answer to a progress request, which is about all watchers that there were then.
func (t *twin) progress(side int, r *pb.WatchResponse) error {
	if t.answers[side]++; t.answers[side] > len(t.asked) {
		return fmt.Errorf("%d answers to %d progress requests", t.answers[side], len(t.asked))
	}
	if most := slices.Max(t.asked[t.answers[side]-1:]); most == 0 || len(r.Events) > 0 {
		return fmt.Errorf("progress of %d watchers", most)
	}
	for _, w := range t.watchers {
		if w.asked > max(t.answers[side]-1, t.passed[side]) {
			continue // It may have been made since.
		}
		if err := t.h.progressed(w, side, r.Header.Revision); err != nil {
			return err
		}
	}
	t.last[side] = r.Header.Revision
	return nil
}

// wait pulls until a condition holds for each side.
func (t *twin) wait(what string, limit time.Duration, done func(side int) bool) error {
	deadline := time.After(limit)
	for side, c := range t.sides {
		for {
			if err := t.pull(side); err != nil {
				return err
			}
			if done(side) {
				break
			}
			select {
			case <-c.fresh:
			case <-deadline:
				return fmt.Errorf("%s, %s: %s has not come in %v", sideNames[side], t.name, what, limit)
			}
		}
	}
	return nil
}

// control waits for both servers' answer to a request and compares them. loose is for answers whose revision depends
// on when they were made.
func (t *twin) control(req *pb.WatchRequest, loose bool) (*pb.WatchResponse, error) {
	if err := t.wait("the answer to { "+brief(req)+" }", watchLimit, func(side int) bool {
		return t.controls[side] != nil
	}); err != nil {
		return nil, err
	}
	a, b := t.controls[0], t.controls[1]
	t.controls = [2]*pb.WatchResponse{}
	x := normal("Watch", Answer{Messages: []proto.Message{a}})
	y := normal("Watch", Answer{Messages: []proto.Message{b}})
	if loose {
		y.Messages[0].(*pb.WatchResponse).Header.Revision = a.Header.Revision
	}
	if !same(x, y, 0) {
		return nil, fmt.Errorf("%s: the answers to { %s } differ\n etcd:  %s\n cairn: %s", t.name, brief(req), brief(a), brief(b))
	}
	return a, nil
}

// settle waits until all watchers got all that they should have got.
func (t *twin) settle() error {
	if err := t.wait("an event", watchLimit, func(side int) bool { return t.settledSide(side) }); err != nil {
		for side := range t.sides {
			for _, w := range t.watchers {
				if !t.h.settled(w, side) {
					return fmt.Errorf("%w\n %s is to be sent to watcher %d { %s } from %d, compacted %d: { %s }", err,
						sideNames[side], w.id, brief(w.req), w.from, w.comp, owed(t.h, w, side))
				}
			}
		}
		return err
	}
	for side, r := range t.controls {
		if r != nil {
			return fmt.Errorf("%s, %s: an answer that nobody waits for { %s }", sideNames[side], t.name, brief(r))
		}
	}
	return nil
}

func owed(h *history, w *watcher, side int) string {
	if e := h.upcoming(w, side); e != nil && !w.lost() {
		return brief(e)
	}
	return "a cancel"
}

func (t *twin) settledSide(side int) bool {
	for _, w := range t.watchers {
		if !t.h.settled(w, side) {
			return false
		}
	}
	return true
}

// determined says whether a progress request must be answered: etcd answers none while a watcher waits for a future
// revision or was canceled by a compaction and not by its client.
func (t *twin) determined() bool {
	for _, w := range t.watchers {
		if w.req.StartRevision > t.h.head || w.lost() || w.seen[0].ended || w.seen[1].ended {
			return false
		}
	}
	return len(t.watchers) > 0
}
