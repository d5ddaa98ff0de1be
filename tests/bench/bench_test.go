// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

const report = `
Summary:
  Total:	0.450794791 secs.
  Requests/sec:	11091.521241646291

Latency distribution:
  10% in 0.004608277 secs.
  50% in 0.007688806 secs.
  99% in 0.021571291 secs.
  99.9% in 0.032096899 secs.
`

func TestParse(t *testing.T) {
	s, err := parse([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	if int(s.perSecond) != 11091 || s.p50 != 7688806*time.Nanosecond || s.p99 != 21571291*time.Nanosecond {
		t.Errorf("got %+v", s)
	}
	for _, bad := range []string{"", "Requests/sec: 5\n", report + "Error distribution:\n  [3] x"} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestSpread(t *testing.T) {
	samples := []sample{{perSecond: 3}, {perSecond: 1}, {perSecond: 2}}
	got := spreadOf(samples, func(s sample) float64 { return s.perSecond })
	if got != (spread{2, 1, 3}) || got.text(0) != "2 (1-3)" {
		t.Errorf("got %+v %s", got, got.text(0))
	}
}

// TestSmoke runs every scenario for a moment, so that the bench works when it is wanted. Its figures mean nothing.
func TestSmoke(t *testing.T) {
	harness.CairnBin(t)
	t.Setenv("ETCD_BIN", harness.EtcdBin(t))
	t.Setenv("BENCHMARK_BIN", harness.BenchmarkBin(t))
	err := run([]string{"-quick", "-duration=100ms", "-runs=1", "-keys=2000", "-behind=2000", "-leases=500", "-other-max=1", "-settle=0", "-markdown",
		"-join-bytes=8388608", "-dir=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCountEvents(t *testing.T) {
	r := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 7}, WatchId: 3, CancelReason: "events",
		Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("a")}}, {}, {Kv: &mvccpb.KeyValue{Value: []byte{90, 0}}}}}
	for n := range len(r.Events) + 1 {
		raw, err := proto.Marshal(&pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Events: r.Events[:n]})
		if got := countEvents(raw); err != nil || got != n {
			t.Errorf("%d events instead of %d, %v", got, n, err)
		}
	}
}
