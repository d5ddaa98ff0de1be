// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	loadConns   = 16
	loadClients = 512
	paceConns   = 4
	paceClients = 64
	windowMin   = time.Second

	restartCount = 3
)

// figures are what the large scenarios find out about one server.
type figures struct {
	loadRate, loadCPU            float64
	loaded, restarted, killed    harness.Memory
	readyTerm, readyKill         time.Duration
	disk                         int64
	idle, compaction, defragment latency
	compactTook, defragmentTook  time.Duration
}

// latency is the distribution of the paced puts.
type latency struct {
	count         int
	p50, p99, max time.Duration
	failed        int
}

// large runs the memory scenario and, on the same data, the compaction scenario, one server after the other.
func (c *config) large(out *table) error {
	var got [2]figures
	for i, kind := range c.kinds() {
		if err := c.largeOne(kind, &got[i]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	if c.scenarios["memory"] {
		out.start(fmt.Sprintf("%d keys of %d bytes", c.keys, valueBytes), "etcd", "Cairn", "ratio")
		addMemory(out, got[0], got[1])
		out.end()
	}
	if c.scenarios["compaction"] {
		out.start(fmt.Sprintf("puts at %d/s", c.rate), "etcd", "Cairn", "ratio")
		addCompaction(out, got[0], got[1])
		out.end()
	}
	return nil
}

func (c *config) largeOne(kind harness.Kind, f *figures) error {
	s, err := c.single(kind, "large")
	if err != nil {
		return err
	}
	defer s.Close()
	if err := c.load(s, 0, c.keys, f); err != nil {
		return err
	}
	if f.loaded, err = harness.MemoryOf(s.Pid()); err != nil {
		return err
	}
	f.disk = harness.DiskUsage(s.DataDir())
	if c.scenarios["memory"] {
		if err := c.restarts(s, f); err != nil {
			return err
		}
	}
	if c.scenarios["compaction"] {
		return c.compaction(s, f)
	}
	return nil
}

func loadKey(i int) []byte { return []byte(fmt.Sprintf("/bench/%010d", i)) }

// load puts n keys once each, spread over the key space as creations in a real store are.
func (c *config) load(s *harness.Server, round uint64, n int, f *figures) error {
	conns, err := dialMany(s, loadConns)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, loadClients)
	cpu, _ := harness.CPUTime(s.Pid())
	start := time.Now()
	for w := 0; w < loadClients; w++ {
		kv := pb.NewKVClient(conns[w%len(conns)])
		rng := rand.New(rand.NewPCG(round, uint64(w)))
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				// A fixed stride that shares no factor with most counts; every key comes once when it shares none.
				key := loadKey(int(i * 7919 % int64(n)))
				if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: key, Value: randomValue(rng)}); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	took := time.Since(start)
	after, _ := harness.CPUTime(s.Pid())
	if f != nil {
		f.loadRate = float64(n) / took.Seconds()
		f.loadCPU = (after - cpu).Seconds() * 1e6 / float64(n)
	}
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// restarts measures restarts in good order and restarts after a kill. A single member waits a random part of its
// election timeout before it serves, so each time is the median of a few.
func (c *config) restarts(s *harness.Server, f *figures) error {
	var term, kill []time.Duration
	for range restartCount {
		if _, err := s.Terminate(); err != nil {
			return err
		}
		took, err := startAndRead(s)
		if err != nil {
			return err
		}
		term = append(term, took)
		if f.restarted, err = c.settledMemory(s); err != nil {
			return err
		}
	}
	for n := range restartCount {
		if err := c.load(s, uint64(10+n), max(1, c.keys/20), nil); err != nil {
			return err
		}
		if err := s.Kill9(); err != nil {
			return err
		}
		took, err := startAndRead(s)
		if err != nil {
			return err
		}
		kill = append(kill, took)
		if f.killed, err = c.settledMemory(s); err != nil {
			return err
		}
	}
	slices.Sort(term)
	slices.Sort(kill)
	f.readyTerm, f.readyKill = term[len(term)/2], kill[len(kill)/2]
	return nil
}

// settledMemory gives a server a moment after its first answer: what it still builds up belongs to its size.
func (c *config) settledMemory(s *harness.Server) (harness.Memory, error) {
	if err := s.WaitReady(harness.ReadyLimit); err != nil {
		return harness.Memory{}, err
	}
	time.Sleep(c.settle)
	return harness.MemoryOf(s.Pid())
}

// quickRetry keeps the client from waiting a second, its usual first pause, before it tries a connection again.
var quickRetry = grpc.WithConnectParams(grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.2, MaxDelay: 10 * time.Millisecond},
	MinConnectTimeout: time.Second,
})

// startAndRead starts the server and returns the time until the first serializable read of a loaded key.
func startAndRead(s *harness.Server) (time.Duration, error) {
	start := time.Now()
	if err := s.Start(); err != nil {
		return 0, err
	}
	req := &pb.RangeRequest{Key: loadKey(0), Serializable: true}
	for time.Since(start) < 2*harness.ReadyLimit {
		if !s.Alive() {
			return 0, fmt.Errorf("it ended while starting\n%s", s.LogTail(20))
		}
		conn, err := s.Dial(quickRetry)
		if err != nil {
			return 0, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		resp, err := pb.NewKVClient(conn).Range(ctx, req)
		took := time.Since(start)
		cancel()
		conn.Close()
		if err == nil && len(resp.Kvs) == 1 {
			return took, nil
		}
		time.Sleep(time.Millisecond)
	}
	return 0, fmt.Errorf("no read succeeded within %v", 2*harness.ReadyLimit)
}

// compaction overwrites all keys once and measures paced puts while nothing else, a physical compaction of the old
// revisions, and Defragment go on.
func (c *config) compaction(s *harness.Server, f *figures) error {
	if err := c.load(s, 2, c.keys, nil); err != nil {
		return err
	}
	conns, err := dialMany(s, 1)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	ctx := context.Background()
	kv, maintenance := pb.NewKVClient(conns[0]), pb.NewMaintenanceClient(conns[0])
	time.Sleep(c.settle)
	if f.idle, _, err = c.paced(s, func() error { time.Sleep(c.duration * 2); return nil }); err != nil {
		return err
	}
	head, err := kv.Range(ctx, &pb.RangeRequest{Key: loadKey(0)})
	if err != nil {
		return err
	}
	f.compaction, f.compactTook, err = c.paced(s, func() error {
		_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: head.Header.Revision, Physical: true})
		return err
	})
	if err != nil {
		return err
	}
	time.Sleep(c.settle)
	f.defragment, f.defragmentTook, err = c.paced(s, func() error {
		_, err := maintenance.Defragment(ctx, &pb.DefragmentRequest{})
		return err
	})
	return err
}

// paced puts at the configured rate while work runs, at least windowMin long, and returns how the puts fared and how
// long the work took.
func (c *config) paced(s *harness.Server, work func() error) (latency, time.Duration, error) {
	return c.pacedKeys(s, c.keys, work)
}

// pacedKeys is paced over the first so many keys.
func (c *config) pacedKeys(s *harness.Server, keys int, work func() error) (latency, time.Duration, error) {
	conns, err := dialMany(s, paceConns)
	if err != nil {
		return latency{}, 0, err
	}
	defer closeAll(conns)
	for _, conn := range conns { // The connections exist before the first put is due.
		if _, err := pb.NewKVClient(conn).Range(context.Background(), &pb.RangeRequest{Key: loadKey(0)}); err != nil {
			return latency{}, 0, err
		}
	}
	var next, failed atomic.Int64
	var stop atomic.Bool
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for w := 0; w < paceClients; w++ {
		kv := pb.NewKVClient(conns[w%len(conns)])
		rng := rand.New(rand.NewPCG(3, uint64(w)))
		wg.Add(1)
		go func() {
			defer wg.Done()
			var mine []time.Duration
			for !stop.Load() {
				due := start.Add(time.Duration(next.Add(1)-1) * time.Second / time.Duration(c.rate))
				time.Sleep(time.Until(due))
				key := loadKey(rng.IntN(keys))
				if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: key, Value: randomValue(rng)}); err != nil {
					failed.Add(1)
				}
				mine = append(mine, time.Since(due))
			}
			mu.Lock()
			all = append(all, mine...)
			mu.Unlock()
		}()
	}
	err = work()
	took := time.Since(start)
	if took < windowMin {
		time.Sleep(windowMin - took)
	}
	stop.Store(true)
	wg.Wait()
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[min(len(all)-1, int(q*float64(len(all))))] }
	return latency{len(all), at(0.5), at(0.99), all[len(all)-1], int(failed.Load())}, took, err
}

func dialMany(s *harness.Server, n int) ([]*grpc.ClientConn, error) {
	var conns []*grpc.ClientConn
	for i := 0; i < n; i++ {
		conn, err := s.Dial()
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeAll(conns []*grpc.ClientConn) {
	for _, conn := range conns {
		conn.Close()
	}
}

func addMemory(out *table, e, c figures) {
	mib := func(v int64) float64 { return float64(v) / (1 << 20) }
	row := func(name, format string, a, b float64) {
		out.add(name, fmt.Sprintf(format, a), fmt.Sprintf(format, b), times(b, a))
	}
	row("loading, puts/s", "%.0f", e.loadRate, c.loadRate)
	row("loading, server us per put", "%.1f", e.loadCPU, c.loadCPU)
	row("disk after loading, MiB", "%.0f", mib(e.disk), mib(c.disk))
	for _, m := range []struct {
		name string
		e, c harness.Memory
	}{
		{"after loading", e.loaded, c.loaded}, {"after restart", e.restarted, c.restarted},
		{"after kill -9 and restart", e.killed, c.killed},
	} {
		row("resident "+m.name+", MiB", "%.0f", mib(m.e.RSS), mib(m.c.RSS))
		row("anonymous "+m.name+", MiB", "%.0f", mib(m.e.RSSAnon), mib(m.c.RSSAnon))
	}
	row("ready after restart, s", "%.3f", e.readyTerm.Seconds(), c.readyTerm.Seconds())
	row("ready after kill -9, s", "%.3f", e.readyKill.Seconds(), c.readyKill.Seconds())
}

func addCompaction(out *table, e, c figures) {
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	row := func(name string, a, b float64) {
		out.add(name, fmt.Sprintf("%.2f", a), fmt.Sprintf("%.2f", b), times(b, a))
	}
	for _, x := range []struct {
		name string
		e, c latency
	}{{"idle", e.idle, c.idle}, {"compaction", e.compaction, c.compaction}, {"Defragment", e.defragment, c.defragment}} {
		row("put p50 ms, "+x.name, ms(x.e.p50), ms(x.c.p50))
		row("put p99 ms, "+x.name, ms(x.e.p99), ms(x.c.p99))
		row("put max ms, "+x.name, ms(x.e.max), ms(x.c.max))
		out.add("puts (failed), "+x.name, fmt.Sprintf("%d (%d)", x.e.count, x.e.failed),
			fmt.Sprintf("%d (%d)", x.c.count, x.c.failed), "")
	}
	row("compaction took s", e.compactTook.Seconds(), c.compactTook.Seconds())
	row("Defragment took s", e.defragmentTook.Seconds(), c.defragmentTook.Seconds())
	row("p99 in compaction : idle", ratio(e.compaction, e.idle), ratio(c.compaction, c.idle))
	row("p99 in Defragment : idle", ratio(e.defragment, e.idle), ratio(c.defragment, c.idle))
}

func ratio(a, b latency) float64 { return float64(a.p99) / float64(max(b.p99, 1)) }
