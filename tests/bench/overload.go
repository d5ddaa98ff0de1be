// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Sizes of the overload; -quick takes a tenth.
const (
	crowdWatchers = 10000 // Each of a key of its own, on
	crowdStreams  = 100   // so many streams.
	silentStreams = 1000  // Streams that watch all keys and are never read,
	perConn       = 50    // so many on a connection.
)

// overloadFigures are what the overload did to one server.
type overloadFigures struct {
	without, with      latency
	empty, full, after harness.Memory
	openTook           time.Duration
	behindTook         time.Duration
	crowdEvents        int64
}

// watchOverload measures puts without watchers and with as many as a server must bear: a crowd that gets single events,
// streams that are never read, and one watcher that comes from far behind.
func (c *config) watchOverload(out *table) error {
	var got [2]overloadFigures
	for i, kind := range c.kinds() {
		if err := c.overloadOne(kind, &got[i]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	e, k := got[0], got[1]
	watchers, streams, silent := c.crowd()
	fmt.Printf("%d watchers on %d streams, %d streams never read, one watcher %d behind; puts at %d/s\n", watchers, streams,
		silent, c.behind, c.rate)
	out.start("overload", "etcd", "Cairn", "ratio")
	row := func(name, format string, a, b float64) {
		out.add(name, fmt.Sprintf(format, a), fmt.Sprintf(format, b), times(b, a))
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	mib := func(m harness.Memory) float64 { return float64(m.RSS) / (1 << 20) }
	row("put p50 ms, without", "%.2f", ms(e.without.p50), ms(k.without.p50))
	row("put p99 ms, without", "%.2f", ms(e.without.p99), ms(k.without.p99))
	row("put p50 ms, with", "%.2f", ms(e.with.p50), ms(k.with.p50))
	row("put p99 ms, with", "%.2f", ms(e.with.p99), ms(k.with.p99))
	row("put max ms, with", "%.2f", ms(e.with.max), ms(k.with.max))
	row("p99 with : without", "%.2f", ratio(e.with, e.without), ratio(k.with, k.without))
	row("all opened in s", "%.2f", e.openTook.Seconds(), k.openTook.Seconds())
	row("the one behind had all after s", "%.2f", e.behindTook.Seconds(), k.behindTook.Seconds())
	row("resident MiB, without", "%.0f", mib(e.empty), mib(k.empty))
	row("resident MiB, with", "%.0f", mib(e.full), mib(k.full))
	row("resident MiB, after they closed", "%.0f", mib(e.after), mib(k.after))
	out.add("puts (failed), with", fmt.Sprintf("%d (%d)", e.with.count, e.with.failed),
		fmt.Sprintf("%d (%d)", k.with.count, k.with.failed), "")
	out.add("events of the crowd", fmt.Sprint(e.crowdEvents), fmt.Sprint(k.crowdEvents), "")
	out.end()
	return nil
}

func (c *config) crowd() (watchers, streams, silent int) {
	if c.quick {
		return crowdWatchers / 10, crowdStreams / 10, silentStreams / 10
	}
	return crowdWatchers, crowdStreams, silentStreams
}

func (c *config) overloadOne(kind harness.Kind, f *overloadFigures) error {
	s, err := c.single(kind, "overload")
	if err != nil {
		return err
	}
	defer s.Close()
	if err := c.load(s, 0, c.behind, nil); err != nil {
		return err
	}
	time.Sleep(c.settle)
	if f.without, _, err = c.pacedKeys(s, crowdWatchers, func() error { time.Sleep(2 * c.duration); return nil }); err != nil {
		return err
	}
	if f.empty, err = harness.MemoryOf(s.Pid()); err != nil {
		return err
	}
	if err := c.overloaded(s, f); err != nil {
		return err
	}
	time.Sleep(c.settle)
	f.after, err = harness.MemoryOf(s.Pid())
	return err
}

// overloaded opens everything, measures, and closes everything.
func (c *config) overloaded(s *harness.Server, f *overloadFigures) error {
	watchers, streams, silent := c.crowd()
	conns, err := dialMany(s, max(1, (streams+silent)/perConn))
	if err != nil {
		return err
	}
	defer closeAll(conns)
	var crowd []*watchStream
	start := time.Now()
	for i := range streams + silent {
		stream, err := openStream(conns[i%len(conns)])
		if err != nil {
			return err
		}
		defer stream.close()
		if i >= streams {
			if err := stream.create(false, &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}); err != nil {
				return err
			}
			continue
		}
		var requests []*pb.WatchCreateRequest
		for n := range watchers / streams {
			requests = append(requests, &pb.WatchCreateRequest{Key: loadKey(i*watchers/streams + n)})
		}
		if err := stream.create(true, requests...); err != nil {
			return err
		}
		stream.read(nil)
		crowd = append(crowd, stream)
	}
	f.openTook = time.Since(start)
	if f.with, _, err = c.pacedKeys(s, watchers, func() error {
		begin := time.Now()
		err := c.readPast(s)
		f.behindTook = time.Since(begin)
		time.Sleep(2*c.duration - f.behindTook)
		return err
	}); err != nil {
		return err
	}
	if f.full, err = harness.MemoryOf(s.Pid()); err != nil {
		return err
	}
	return c.waitCrowd(crowd, f)
}

// waitCrowd demands that everybody in the crowd got what was put: every put was of a key that one of them watches.
func (c *config) waitCrowd(crowd []*watchStream, f *overloadFigures) error {
	want := int64(f.with.count - f.with.failed)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		f.crowdEvents = 0
		for _, s := range crowd {
			f.crowdEvents += s.events.Load()
		}
		if f.crowdEvents >= want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d events of %d came to the watchers that read", f.crowdEvents, want)
		}
	}
}
