// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"fmt"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// history is every event since the servers were empty, as a watcher of all keys saw it on both servers. What any
// other watcher must get follows from it.
type history struct {
	events   []pastEvent
	head     int64 // The revision up to which it is known.
	live     map[string]*mvccpb.KeyValue
	comp     int64          // Compacted up to here; -1 before the first time.
	compacts map[int64]bool // Every revision that was compacted at.
	counts   map[string]int // What was met, for the report.
	etcd     [2]bool        // Which side is etcd.
}

type pastEvent struct {
	*mvccpb.Event
	prev *mvccpb.KeyValue // What prev_kv shows if it can still be read.
	comp int64            // Compacted up to here when it was written.
}

func newHistory() *history {
	return &history{head: 1, comp: -1, live: map[string]*mvccpb.KeyValue{}, compacts: map[int64]bool{},
		counts: map[string]int{}}
}

// add appends the events of one revision. The previous version is that of the revision before: an event of the same
// transaction doesn't count, and a key that is made anew has none, also when the transaction deleted it first.
func (h *history) add(events []*mvccpb.Event) error {
	rev := events[0].Kv.ModRevision
	if rev != h.head+1 {
		return fmt.Errorf("revision %d follows %d", rev, h.head)
	}
	for _, e := range events {
		if e.Kv.ModRevision != rev {
			return fmt.Errorf("revision %d among the events of %d", e.Kv.ModRevision, rev)
		}
		p := pastEvent{Event: e, comp: h.comp}
		if e.Type == mvccpb.Event_DELETE || e.Kv.CreateRevision != rev {
			p.prev = h.live[string(e.Kv.Key)]
		}
		h.events = append(h.events, p)
	}
	for _, e := range events {
		if e.Type == mvccpb.Event_DELETE {
			delete(h.live, string(e.Kv.Key))
		} else {
			h.live[string(e.Kv.Key)] = e.Kv
		}
	}
	h.head = rev
	return nil
}

func (h *history) compacted(rev int64) {
	h.comp = max(h.comp, rev)
	h.compacts[rev] = true
}

// index is where the events of a revision, or of the first later one, begin.
func (h *history) index(rev int64) int {
	return sort.Search(len(h.events), func(i int) bool { return h.events[i].Kv.ModRevision >= rev })
}

// watcher is one watcher on both servers.
type watcher struct {
	id    int64
	req   *pb.WatchCreateRequest
	from  int64 // The first revision that it sees.
	comp  int64 // Compacted up to here when it was made.
	asked int   // How many progress requests its stream had sent by then.
	seen  [2]position
}

// position is how far one server has come with a watcher.
type position struct {
	next   int   // The first event of the history that was not looked at yet.
	proven int64 // Everything up to this revision was sent.
	open   bool  // More fragments of a response must come.
	ended  bool  // Canceled by the server.
}

// wants says whether an event is for the watcher.
func (w *watcher) wants(e *mvccpb.Event) bool {
	for _, f := range w.req.Filters {
		if f == pb.WatchCreateRequest_NOPUT && e.Type == mvccpb.Event_PUT ||
			f == pb.WatchCreateRequest_NODELETE && e.Type == mvccpb.Event_DELETE {
			return false
		}
	}
	key, end := w.req.Key, w.req.RangeEnd
	if len(key) == 0 {
		key = []byte{0}
	}
	switch {
	case len(end) == 0:
		return bytes.Equal(e.Kv.Key, key)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(e.Kv.Key, key) >= 0
	}
	return bytes.Compare(e.Kv.Key, key) >= 0 && bytes.Compare(e.Kv.Key, end) < 0
}

// lost says that the watcher asks for what was compacted before it was made.
func (w *watcher) lost() bool { return w.from < w.comp }

// upcoming returns the next event that a side owes the watcher, and moves the position there.
func (h *history) upcoming(w *watcher, side int) *pastEvent {
	p := &w.seen[side]
	for ; p.next < len(h.events); p.next++ {
		if e := &h.events[p.next]; e.Kv.ModRevision >= w.from && w.wants(e.Event) {
			return e
		}
	}
	return nil
}

// reached is the first revision of which something may be missing.
func (w *watcher) reached(side int) int64 { return max(w.from, w.seen[side].proven+1) }

// accept checks one response with events. early is for what etcd may have made up before it knew that prev_kv was asked for.
func (h *history) accept(w *watcher, side int, r *pb.WatchResponse, early bool) error {
	p := &w.seen[side]
	if p.ended {
		return fmt.Errorf("events behind the end of watcher %d", w.id)
	}
	if w.lost() {
		return fmt.Errorf("events for watcher %d from revision %d, compacted at %d", w.id, w.from, w.comp)
	}
	var last int64
	for i, got := range r.Events {
		want := h.upcoming(w, side)
		if want == nil {
			return fmt.Errorf("watcher %d: event %d { %s } but nothing was to come", w.id, i, brief(got))
		}
		if err := h.same(w, want, got, early); err != nil {
			return fmt.Errorf("watcher %d, event %d: %w", w.id, i, err)
		}
		last = want.Kv.ModRevision
		p.next++
	}
	if r.Header.Revision < last || r.Header.Revision > h.head {
		return fmt.Errorf("watcher %d: header revision %d, last event %d, head %d", w.id, r.Header.Revision, last, h.head)
	}
	next := h.upcoming(w, side)
	switch {
	case r.Fragment && !w.req.Fragment:
		return fmt.Errorf("watcher %d did not ask for fragments", w.id)
	case !r.Fragment && next != nil && next.Kv.ModRevision == last:
		return fmt.Errorf("watcher %d: revision %d is split, { %s } is missing", w.id, last, brief(next))
	}
	h.counts["events"] += len(r.Events)
	if r.Fragment {
		h.counts["fragments"]++
	}
	if next != nil && next.Kv.ModRevision <= r.Header.Revision {
		h.counts["responses not up to their revision"]++
	}
	if p.open = r.Fragment; !p.open {
		p.proven = max(p.proven, last)
		if next == nil || next.Kv.ModRevision > r.Header.Revision {
			p.proven = max(p.proven, r.Header.Revision)
		}
	}
	return nil
}

// same compares an event and its prev_kv. That is read when the event is sent: it must be there while it can be read,
// must not be when it was compacted before the event was due, and may be there or not in between.
func (h *history) same(w *watcher, want *pastEvent, got *mvccpb.Event, early bool) error {
	if got.Type != want.Type || !proto.Equal(got.Kv, want.Kv) {
		return fmt.Errorf("got { %s } instead of { %s }", brief(got), brief(want.Event))
	}
	if got.PrevKv == nil {
		if w.req.PrevKv && want.prev != nil && want.Kv.ModRevision > h.comp && !early {
			return fmt.Errorf("{ %s } without prev_kv { %s }", brief(got), brief(want.prev))
		}
		return nil
	}
	gone := max(w.comp, want.comp) >= want.Kv.ModRevision
	if !w.req.PrevKv || want.prev == nil || gone || !proto.Equal(got.PrevKv, want.prev) {
		return fmt.Errorf("{ %s } with prev_kv; asked for: %v, compacted: %v, should be { %s }", brief(got), w.req.PrevKv, gone,
			brief(want.prev))
	}
	return nil
}

// overtaken checks a cancel because of a compaction.
func (h *history) overtaken(w *watcher, side int, r *pb.WatchResponse) error {
	p := &w.seen[side]
	at := w.reached(side)
	c := r.CompactRevision
	if p.ended || p.open || !h.compacts[c] || c <= at || c < w.comp && w.lost() {
		return fmt.Errorf("watcher %d, at revision %d, made when %d was compacted, is canceled with compact revision %d", w.id,
			at, w.comp, c)
	}
	if !r.Canceled || r.CancelReason != "" || r.Header.Revision != 0 || len(r.Events) > 0 || r.Fragment {
		return fmt.Errorf("a cancel by compaction { %s }", brief(r))
	}
	p.ended = true
	h.counts["canceled by compaction"]++
	return nil
}

// progressed checks that nothing up to a progress's revision is missing.
func (h *history) progressed(w *watcher, side int, rev int64) error {
	next := h.upcoming(w, side)
	p := &w.seen[side]
	switch {
	case p.ended, p.open, w.lost(), rev > h.head, rev < p.proven, w.req.StartRevision > rev:
		return fmt.Errorf("progress at %d for watcher %d, from %d, sure of %d, ended %v, in fragments %v; head %d", rev, w.id,
			w.from, p.proven, p.ended, p.open, h.head)
	case next != nil && next.Kv.ModRevision <= rev:
		return fmt.Errorf("progress at %d before { %s } of watcher %d", rev, brief(next), w.id)
	}
	p.proven = rev
	return nil
}

// settled says whether a side owes the watcher nothing.
func (h *history) settled(w *watcher, side int) bool {
	if w.lost() {
		return w.seen[side].ended
	}
	return w.seen[side].ended || h.upcoming(w, side) == nil && !w.seen[side].open
}
