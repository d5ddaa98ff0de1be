// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Sizes of the watch scenarios, as etcd's own benchmark tool has them by default: ten streams on a connection each.
const (
	watchStreams = 10
	fanOut       = 1000 // Watchers of one key, together,
	fanWindow    = 16   // with so many puts under way.
	latencyFan   = 100  // Watchers while latency is measured,
	latencyRate  = 200  // at so many puts per second.
	watchLimit   = 20 * time.Minute
)

// watchFigures are what the watch scenario finds out in one run.
type watchFigures struct {
	eventRate, cpu, client float64 // Microseconds per event.
	p50, p99, most         time.Duration
	rss                    int64
}

// watch measures the fan-out of one key's events, and how late they come.
func (c *config) watch(out *table) error {
	etcd, cairn, err := c.servers("watch")
	if err != nil {
		return err
	}
	defer etcd.Close()
	defer cairn.Close()
	var all [2][]watchFigures
	for range c.runs {
		for i, s := range []*harness.Server{etcd, cairn} {
			f, err := c.watchOne(s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Kind, err)
			}
			all[i] = append(all[i], f)
		}
	}
	out.start("watchers of one key", "etcd", "Cairn", "ratio")
	row := func(name string, digits int, f func(watchFigures) float64) {
		a, b := spreadOf(all[0], f), spreadOf(all[1], f)
		out.add(name, a.text(digits), b.text(digits), fmt.Sprintf("%.2f", b.median/a.median))
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	row(fmt.Sprintf("%d watchers, events/s", fanOut), 0, func(f watchFigures) float64 { return f.eventRate })
	row("server us per event", 2, func(f watchFigures) float64 { return f.cpu })
	row("client us per event", 2, func(f watchFigures) float64 { return f.client })
	row("resident MiB", 0, func(f watchFigures) float64 { return float64(f.rss) / (1 << 20) })
	at := fmt.Sprintf("%d watchers at %d puts/s, event ", latencyFan, latencyRate)
	row(at+"p50 ms", 2, func(f watchFigures) float64 { return ms(f.p50) })
	row(at+"p99 ms", 2, func(f watchFigures) float64 { return ms(f.p99) })
	row(at+"max ms", 2, func(f watchFigures) float64 { return ms(f.most) })
	out.end()
	return nil
}

func (c *config) watchOne(s *harness.Server) (f watchFigures, err error) {
	conns, err := dialMany(s, watchStreams)
	if err != nil {
		return f, err
	}
	defer closeAll(conns)
	if err := c.fanOut(s, conns, &f); err != nil {
		return f, err
	}
	return f, c.eventLatency(conns, &f)
}

// openFan opens streams with so many watchers of a key in all.
func openFan(conns []*grpc.ClientConn, key []byte, watchers int, each func(raw []byte)) (list []*watchStream, err error) {
	for _, conn := range conns {
		s, err := openStream(conn)
		if err != nil {
			return list, err
		}
		list = append(list, s)
		requests := make([]*pb.WatchCreateRequest, watchers/len(conns))
		for i := range requests {
			requests[i] = &pb.WatchCreateRequest{Key: key}
		}
		if err := s.create(true, requests...); err != nil {
			return list, err
		}
		s.read(each)
	}
	return list, nil
}

func closeStreams(list []*watchStream) {
	for _, s := range list {
		s.close()
	}
}

// fanOut puts one key for the configured time, as fast as its events arrive.
func (c *config) fanOut(s *harness.Server, conns []*grpc.ClientConn, f *watchFigures) error {
	key := []byte("fan")
	streams, err := openFan(conns, key, fanOut, nil)
	defer closeStreams(streams)
	if err != nil {
		return err
	}
	before, err := harness.CPUTime(s.Pid())
	if err != nil {
		return err
	}
	clientBefore, start := ownCPU(), time.Now()
	puts, err := c.pushEvents(conns, key, streams)
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if err := stream.waitEvents(puts*fanOut/watchStreams, watchLimit); err != nil {
			return err
		}
	}
	took := time.Since(start)
	after, err := harness.CPUTime(s.Pid())
	if err != nil {
		return err
	}
	events := float64(puts * fanOut)
	f.eventRate = events / took.Seconds()
	f.cpu = (after - before).Seconds() * 1e6 / events
	f.client = (ownCPU() - clientBefore).Seconds() * 1e6 / events
	memory, err := harness.MemoryOf(s.Pid())
	f.rss = memory.RSS
	return err
}

// pushEvents puts a key while no more than fanWindow puts lack events.
func (c *config) pushEvents(conns []*grpc.ClientConn, key []byte, streams []*watchStream) (int64, error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, fanWindow)
	end := time.Now().Add(c.duration)
	came := func() (n int64) {
		for _, s := range streams {
			n += s.events.Load()
		}
		return n
	}
	value := randomValue(rand.New(rand.NewPCG(4, 4)))
	for w := range fanWindow {
		kv := pb.NewKVClient(conns[w%len(conns)])
		wg.Add(1)
		go func() {
			defer wg.Done()
			for time.Now().Before(end) {
				n := next.Add(1)
				if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: key, Value: value}); err != nil {
					errs <- err
					return
				}
				for deadline := end.Add(time.Minute); came() < (n-fanWindow)*fanOut && time.Now().Before(deadline); {
					time.Sleep(200 * time.Microsecond)
				}
			}
		}()
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return next.Load(), nil
	}
}

// eventLatency puts a key at a pace; its value says when the put was sent.
func (c *config) eventLatency(conns []*grpc.ClientConn, f *watchFigures) error {
	key := []byte("latency")
	epoch := time.Now()
	var mu sync.Mutex
	var all []time.Duration
	streams, err := openFan(conns, key, latencyFan, func(raw []byte) {
		now := time.Since(epoch)
		var r pb.WatchResponse
		if proto.Unmarshal(raw, &r) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range r.Events {
			sent, err := strconv.ParseInt(string(e.Kv.Value), 10, 64)
			if err == nil {
				all = append(all, now-time.Duration(sent))
			}
		}
	})
	defer closeStreams(streams)
	if err != nil {
		return err
	}
	kv := pb.NewKVClient(conns[0])
	puts := max(10, int(c.duration.Seconds()*latencyRate))
	for i := range puts {
		time.Sleep(time.Until(epoch.Add(time.Duration(i) * time.Second / latencyRate)))
		value := strconv.AppendInt(nil, int64(time.Since(epoch)), 10)
		if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: key, Value: value}); err != nil {
			return err
		}
	}
	for _, stream := range streams {
		if err := stream.waitEvents(int64(puts*latencyFan/watchStreams), watchLimit); err != nil {
			return err
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[min(len(all)-1, int(q*float64(len(all))))] }
	f.p50, f.p99, f.most = at(0.5), at(0.99), all[len(all)-1]
	return nil
}

// ringBytesPerEvent makes Cairn's ring large enough for all that the watcher has to catch up with.
const ringBytesPerEvent = 1024

// catchUpFigures are what one server needed to bring a watcher up to the head.
type catchUpFigures struct {
	took, cpu      float64 // Seconds, microseconds per event.
	idle, meantime latency
}

// watchCatchUp lets a watcher come from behind, first while the events are recent, then after a restart.
func (c *config) watchCatchUp(out *table) error {
	var got [2][2]catchUpFigures
	for i, kind := range c.kinds() {
		if err := c.catchUpOne(kind, &got[i]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	out.start(fmt.Sprintf("%d revisions behind", c.behind), "etcd", "Cairn", "ratio")
	row := func(name string, a, b float64) {
		out.add(name, fmt.Sprintf("%.2f", a), fmt.Sprintf("%.2f", b), times(b, a))
	}
	for n, name := range []string{"from memory", "from disk"} {
		e, k := got[0][n], got[1][n]
		row(name+", s", e.took, k.took)
		row(name+", server us per event", e.cpu, k.cpu)
		row(name+", put p99 ms, idle", e.idle.p99.Seconds()*1e3, k.idle.p99.Seconds()*1e3)
		row(name+", put p99 ms, meanwhile", e.meantime.p99.Seconds()*1e3, k.meantime.p99.Seconds()*1e3)
		row(name+", put p99, meanwhile : idle", ratio(e.meantime, e.idle), ratio(k.meantime, k.idle))
	}
	out.end()
	return nil
}

func (c *config) catchUpOne(kind harness.Kind, got *[2]catchUpFigures) error {
	var args []string
	if kind == harness.Cairn {
		args = []string{fmt.Sprintf("--watch-ring-bytes=%d", c.behind*ringBytesPerEvent)}
	}
	s, err := c.single(kind, "catch-up", args...)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := c.loadWatched(s); err != nil {
		return err
	}
	for n := range got {
		if n == 1 {
			if _, err := s.Terminate(); err != nil {
				return err
			}
			if err := s.StartReady(); err != nil {
				return err
			}
		}
		time.Sleep(c.settle)
		if err := c.comeFromBehind(s, &got[n]); err != nil {
			return err
		}
	}
	return nil
}

// onStream calls do with a stream on a connection of its own.
func onStream(s *harness.Server, do func(*watchStream) error) error {
	conns, err := dialMany(s, 1)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	stream, err := openStream(conns[0])
	if err != nil {
		return err
	}
	defer stream.close()
	return do(stream)
}

// loadWatched loads beside a watcher that is told nothing: a server may keep recent events for watchers only.
func (c *config) loadWatched(s *harness.Server) error {
	return onStream(s, func(stream *watchStream) error {
		if err := stream.create(true, &pb.WatchCreateRequest{Key: []byte("quiet")}); err != nil {
			return err
		}
		return c.load(s, 0, c.behind, nil)
	})
}

// comeFromBehind measures puts without and with a watcher that reads all that was loaded, once with nothing else to
// do and once beside the puts.
func (c *config) comeFromBehind(s *harness.Server, f *catchUpFigures) error {
	before, err := harness.CPUTime(s.Pid())
	if err != nil {
		return err
	}
	start := time.Now()
	if err := c.readPast(s); err != nil {
		return err
	}
	f.took = time.Since(start).Seconds()
	after, err := harness.CPUTime(s.Pid())
	if err != nil {
		return err
	}
	f.cpu = (after - before).Seconds() * 1e6 / float64(c.behind)
	if f.idle, _, err = c.paced(s, func() error { time.Sleep(c.duration); return nil }); err != nil {
		return err
	}
	f.meantime, _, err = c.paced(s, func() error { return c.readPast(s) })
	return err
}

// readPast watches from the first revision until as many events as were loaded have come.
func (c *config) readPast(s *harness.Server) error {
	all := &pb.WatchCreateRequest{Key: loadKey(0), RangeEnd: []byte{0}, StartRevision: 1}
	return onStream(s, func(stream *watchStream) error {
		if err := stream.create(false, all); err != nil {
			return err
		}
		stream.read(nil)
		return stream.waitEvents(int64(c.behind), watchLimit)
	})
}
