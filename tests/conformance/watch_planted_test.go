// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// watchFault is a difference planted into watch streams. Each function may be nil.
type watchFault struct {
	name    string
	create  func(*pb.WatchCreateRequest)
	request func(*pb.WatchRequest) *pb.WatchRequest // nil: it never arrives.
	// A response becomes none, one or several. There is one such function per stream, so that it may remember.
	respond func() func(*pb.WatchResponse) []*pb.WatchResponse
}

// watchProxy stands before a server's Watch.
type watchProxy struct {
	pb.UnimplementedWatchServer
	backend pb.WatchClient
	fault   watchFault
	planted atomic.Int64
}

func (p *watchProxy) Watch(down pb.Watch_WatchServer) error {
	up, err := p.backend.Watch(down.Context())
	if err != nil {
		return err
	}
	go func() {
		for {
			r, err := down.Recv()
			if err != nil {
				up.CloseSend()
				return
			}
			if r = p.ask(r); r != nil && up.Send(r) != nil {
				return
			}
		}
	}()
	respond := func(r *pb.WatchResponse) []*pb.WatchResponse { return []*pb.WatchResponse{r} }
	if p.fault.respond != nil {
		respond = p.fault.respond()
	}
	for {
		r, err := up.Recv()
		if err != nil {
			return err
		}
		list := respond(proto.Clone(r).(*pb.WatchResponse))
		if len(list) != 1 || !proto.Equal(list[0], r) {
			p.planted.Add(1)
		}
		for _, r := range list {
			if err := down.Send(r); err != nil {
				return err
			}
		}
	}
}

func (p *watchProxy) ask(r *pb.WatchRequest) *pb.WatchRequest {
	before := proto.Clone(r)
	if c := r.GetCreateRequest(); c != nil && p.fault.create != nil {
		p.fault.create(c)
	}
	if p.fault.request != nil {
		r = p.fault.request(r)
	}
	if r == nil || !proto.Equal(before, r) {
		p.planted.Add(1)
	}
	return r
}

// each makes a fault of a change to every response that fits.
func each(name string, change func(*pb.WatchResponse)) watchFault {
	return watchFault{name: name, respond: func() func(*pb.WatchResponse) []*pb.WatchResponse {
		return func(r *pb.WatchResponse) []*pb.WatchResponse {
			change(r)
			return []*pb.WatchResponse{r}
		}
	}}
}

// some makes a fault of what becomes of every fifth response that fits.
func some(name string, fits func(*pb.WatchResponse) bool, become func(*pb.WatchResponse) []*pb.WatchResponse) watchFault {
	return watchFault{name: name, respond: func() func(*pb.WatchResponse) []*pb.WatchResponse {
		n := 0
		return func(r *pb.WatchResponse) []*pb.WatchResponse {
			if fits(r) {
				if n++; n%5 == 1 {
					return become(r)
				}
			}
			return []*pb.WatchResponse{r}
		}
	}}
}

func nothing(*pb.WatchResponse) []*pb.WatchResponse { return nil }
func twice(r *pb.WatchResponse) []*pb.WatchResponse { return []*pb.WatchResponse{r, r} }
func hasEvents(r *pb.WatchResponse) bool            { return len(r.Events) > 0 }
func isProgress(r *pb.WatchResponse) bool {
	return len(r.Events) == 0 && !r.Created && !r.Canceled && r.WatchId == -1
}

// split cuts a response in two behind the n-th event.
func split(r *pb.WatchResponse, n int) []*pb.WatchResponse {
	rest := proto.Clone(r).(*pb.WatchResponse)
	r.Events, rest.Events = r.Events[:n], rest.Events[n:]
	return []*pb.WatchResponse{r, rest}
}

func firstRevision(r *pb.WatchResponse) (n int) {
	for n < len(r.Events) && r.Events[n].Kv.ModRevision == r.Events[0].Kv.ModRevision {
		n++
	}
	return n
}

// later holds each response that fits back until another has been sent.
func later(name string, fits func(*pb.WatchResponse) bool) watchFault {
	return watchFault{name: name, respond: func() func(*pb.WatchResponse) []*pb.WatchResponse {
		var held *pb.WatchResponse
		return func(r *pb.WatchResponse) []*pb.WatchResponse {
			if held == nil && fits(r) {
				held = r
				return nil
			}
			list := []*pb.WatchResponse{r}
			if held != nil {
				list, held = append(list, held), nil
			}
			return list
		}
	}}
}

func eventFaults() []watchFault {
	return []watchFault{
		some("a response lost", hasEvents, nothing),
		some("a response sent twice", hasEvents, twice),
		some("an event lost", func(r *pb.WatchResponse) bool { return len(r.Events) > 1 },
			func(r *pb.WatchResponse) []*pb.WatchResponse {
				r.Events = slices.Delete(r.Events, 1, 2)
				return []*pb.WatchResponse{r}
			}),
		some("an event twice in a response", hasEvents, func(r *pb.WatchResponse) []*pb.WatchResponse {
			r.Events = append(r.Events, r.Events[len(r.Events)-1])
			return []*pb.WatchResponse{r}
		}),
		some("two events of a revision in the other order", func(r *pb.WatchResponse) bool { return firstRevision(r) > 1 },
			func(r *pb.WatchResponse) []*pb.WatchResponse {
				r.Events[0], r.Events[1] = r.Events[1], r.Events[0]
				return []*pb.WatchResponse{r}
			}),
		some("a revision split", func(r *pb.WatchResponse) bool { return firstRevision(r) > 1 },
			func(r *pb.WatchResponse) []*pb.WatchResponse { return split(r, 1) }),
		some("two revisions in the other order",
			func(r *pb.WatchResponse) bool { return !r.Fragment && firstRevision(r) < len(r.Events) },
			func(r *pb.WatchResponse) []*pb.WatchResponse {
				list := split(r, firstRevision(r))
				return []*pb.WatchResponse{list[1], list[0]}
			}),
		each("a put as a delete", func(r *pb.WatchResponse) {
			for _, e := range r.Events {
				if e.Kv.Version == 3 {
					e.Type = mvccpb.Event_DELETE
				}
			}
		}),
		each("a value's last byte", func(r *pb.WatchResponse) {
			for _, e := range r.Events {
				if n := len(e.Kv.Value); n > 200 {
					e.Kv.Value[n-1] ^= 1
				}
			}
		}),
		each("a delete without revision", func(r *pb.WatchResponse) {
			for _, e := range r.Events {
				if e.Type == mvccpb.Event_DELETE {
					e.Kv.ModRevision = 0
				}
			}
		}),
		each("no prev_kv of a delete", func(r *pb.WatchResponse) {
			for _, e := range r.Events {
				if e.Type == mvccpb.Event_DELETE {
					e.PrevKv = nil
				}
			}
		}),
		each("prev_kv is the version itself", func(r *pb.WatchResponse) {
			for _, e := range r.Events {
				if e.PrevKv != nil {
					e.PrevKv = e.Kv
				}
			}
		}),
	}
}

func responseFaults() []watchFault {
	return []watchFault{
		each("no term", func(r *pb.WatchResponse) { r.Header.RaftTerm = 0 }),
		each("no member id in events", func(r *pb.WatchResponse) {
			if len(r.Events) > 0 {
				r.Header.MemberId = 0
			}
		}),
		each("header revision one too low", func(r *pb.WatchResponse) {
			if len(r.Events) > 0 {
				r.Header.Revision--
			}
		}),
		each("header revision one too high", func(r *pb.WatchResponse) {
			if len(r.Events) > 0 {
				r.Header.Revision++
			}
		}),
		each("created at the next revision", func(r *pb.WatchResponse) {
			if r.Created {
				r.Header.Revision++
			}
		}),
		some("not told that it was created", func(r *pb.WatchResponse) bool { return r.Created }, nothing),
		some("told twice that it was created", func(r *pb.WatchResponse) bool { return r.Created }, twice),
		later("created behind the next response", func(r *pb.WatchResponse) bool { return r.Created }),
		each("another watch id", func(r *pb.WatchResponse) {
			if r.WatchId == 2 {
				r.WatchId = 3
			}
		}),
		each("refused with the id", func(r *pb.WatchResponse) {
			if r.Created && r.Canceled {
				r.WatchId = 5
			}
		}),
		each("another reason", func(r *pb.WatchResponse) {
			if r.CancelReason == "mvcc: watcher range is empty" {
				r.CancelReason = "watcher range is empty"
			}
		}),
		some("a cancel not answered", func(r *pb.WatchResponse) bool { return r.Canceled && !r.Created }, nothing),
		each("compaction without its revision", func(r *pb.WatchResponse) { r.CompactRevision = 0 }),
		each("another compact revision", func(r *pb.WatchResponse) {
			if r.CompactRevision > 0 {
				r.CompactRevision++
			}
		}),
		each("compaction with a reason", func(r *pb.WatchResponse) {
			if r.CompactRevision > 0 {
				r.CancelReason = "compacted"
			}
		}),
		each("compaction with a header revision", func(r *pb.WatchResponse) {
			if r.CompactRevision > 0 {
				r.Header.Revision = r.CompactRevision
			}
		}),
		some("not told of a compaction", func(r *pb.WatchResponse) bool { return r.CompactRevision > 0 }, nothing),
		each("progress one too high", func(r *pb.WatchResponse) {
			if isProgress(r) {
				r.Header.Revision++
			}
		}),
		each("progress of watcher 0", func(r *pb.WatchResponse) {
			if isProgress(r) {
				r.WatchId = 0
			}
		}),
	}
}

func requestFaults() []watchFault {
	create := func(name string, f func(*pb.WatchCreateRequest)) watchFault { return watchFault{name: name, create: f} }
	return []watchFault{
		create("filters ignored", func(r *pb.WatchCreateRequest) { r.Filters = nil }),
		create("an unknown filter as the first", func(r *pb.WatchCreateRequest) {
			for i, f := range r.Filters {
				if f > 1 {
					r.Filters[i] = 0
				}
			}
		}),
		create("prev_kv ignored", func(r *pb.WatchCreateRequest) { r.PrevKv = false }),
		create("prev_kv always", func(r *pb.WatchCreateRequest) { r.PrevKv = true }),
		create("the past one revision short", func(r *pb.WatchCreateRequest) {
			if r.StartRevision > 0 {
				r.StartRevision++
			}
		}),
		create("one revision too many", func(r *pb.WatchCreateRequest) {
			if r.StartRevision > 1 {
				r.StartRevision--
			}
		}),
		create("the future begins now", func(r *pb.WatchCreateRequest) {
			if r.StartRevision > 10 {
				r.StartRevision = 0
			}
		}),
		create("a negative start is none", func(r *pb.WatchCreateRequest) { r.StartRevision = max(0, r.StartRevision) }),
		create("chosen ids ignored", func(r *pb.WatchCreateRequest) { r.WatchId = 0 }),
		create("from-key is one key", func(r *pb.WatchCreateRequest) {
			if string(r.RangeEnd) == "\x00" {
				r.RangeEnd = nil
			}
		}),
		create("a range takes its end", func(r *pb.WatchCreateRequest) {
			if n := len(r.RangeEnd); n > 0 && (n > 1 || r.RangeEnd[0] != 0) {
				r.RangeEnd = append(r.RangeEnd, 0)
			}
		}),
		create("a key is a prefix", func(r *pb.WatchCreateRequest) {
			if len(r.RangeEnd) == 0 && len(r.Key) > 0 {
				r.RangeEnd = prefixEnd(r.Key)
			}
		}),
		{name: "cancels ignored", request: func(r *pb.WatchRequest) *pb.WatchRequest {
			if r.GetCancelRequest() != nil {
				return nil
			}
			return r
		}},
		{name: "progress requests ignored", request: func(r *pb.WatchRequest) *pb.WatchRequest {
			if r.GetProgressRequest() != nil {
				return nil
			}
			return r
		}},
	}
}

// behind runs a world whose second server's watches go through a proxy.
func behind(t *testing.T, p *pair, g *generator, h *history, f watchFault, prepare func(*watchWorld) error) (int64, error) {
	if f.name != "none" {
		watchLimit = 6 * time.Second // What never comes is not waited for long.
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &watchProxy{backend: pb.NewWatchClient(p.subject.conn), fault: f}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(1 << 30))
	pb.RegisterWatchServer(server, x)
	go server.Serve(listener)
	defer server.Stop()
	conn, err := harness.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	q := *p
	q.subject.watches = conn
	w, err := newWatchWorld(&q, g, h, f.name)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if prepare != nil {
		if err := prepare(w); err != nil {
			t.Fatal(err)
		}
	}
	err = w.run(watchSteps)
	if lost := w.recall(); lost != nil {
		t.Fatalf("%s: %v", f.name, lost)
	}
	return x.planted.Load(), err
}

// TestWatchPlantedDifferences proves that the comparison can fail: each of these must be found, and a proxy that
// changes nothing must not.
func TestWatchPlantedDifferences(t *testing.T) {
	before := watchLimit
	defer func() { watchLimit = before }()
	p := newPair(t, harness.Etcd)
	defer p.close()
	g, h := newGenerator(815, 0), newHistory()
	faults := slices.Concat([]watchFault{{name: "none"}}, eventFaults(), responseFaults(), requestFaults())
	for i, f := range faults {
		next := newGenerator(815, uint64(i))
		next.cur, next.comp, next.leases, next.known, next.risky = g.cur, g.comp, g.leases, g.known, g.risky
		g = next
		planted, err := behind(t, p, g, h, f, nil)
		report(t, f, planted, err)
	}
}

func report(t *testing.T, f watchFault, planted int64, err error) {
	t.Helper()
	switch {
	case f.respond == nil && f.create == nil && f.request == nil:
		if err != nil {
			t.Errorf("no fault, but: %v", err)
		}
	case planted == 0:
		t.Errorf("%s: the sequence never met it", f.name)
	case err == nil:
		t.Errorf("%s: planted %d times and not found", f.name, planted)
	case testing.Verbose():
		t.Logf("%s: planted %d times, found: %.400v", f.name, planted, err)
	}
}

// TestWatchPlantedFragments is for the faults that need large responses.
func TestWatchPlantedFragments(t *testing.T) {
	before := watchLimit
	defer func() { watchLimit = before }()
	faults := []watchFault{
		{name: "none"},
		{name: "fragments never asked for", create: func(r *pb.WatchCreateRequest) { r.Fragment = true }},
		each("fragments not marked", func(r *pb.WatchResponse) { r.Fragment = false }),
		some("a fragment lost", func(r *pb.WatchResponse) bool { return r.Fragment }, nothing),
		each("the last fragment marked too", func(r *pb.WatchResponse) { r.Fragment = r.Fragment || len(r.Events) > 20 }),
	}
	p := newPair(t, harness.Etcd, "--max-request-bytes=65536")
	defer p.close()
	g, h := newGenerator(816, 0), newHistory()
	for i, f := range faults {
		next := newGenerator(816, uint64(i))
		next.cur, next.comp, next.leases, next.known, next.risky = g.cur, g.comp, g.leases, g.known, g.risky
		g = next
		planted, err := behind(t, p, g, h, f, func(w *watchWorld) error {
			if i == 0 {
				return w.past()
			}
			w.share = largeShare
			return nil
		})
		report(t, f, planted, err)
	}
}
