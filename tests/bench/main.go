// SPDX-License-Identifier: Apache-2.0

// Command bench runs etcd and Cairn side by side and prints their figures and ratios.
//
//	CAIRN_BIN=build/cairn go run ./bench                      every scenario
//	go run ./bench -scenarios put,range -duration 2s -runs 5  some
//	go run ./bench -scenarios memory,compaction -keys 1000000
//	go run ./bench -scenarios watch-overload -alone           without etcd, which takes half an hour for it
//	go run ./bench -markdown                                  as a table for a README
//
// Method, and what to keep in mind when reading the figures:
//
//   - Both servers run at the same time with the same flags on the same disk, in fresh folders; while one is
//     measured the other is idle (an idle server costs below 1 % of a processor). Runs alternate between the two, so
//     that a slow minute of the machine hits both. Printed is the median of the runs with the lowest and highest.
//   - The client of the throughput scenarios is etcd's own benchmark tool, one process per run. It shares the
//     processors with the server and costs 30 to 60 microseconds per request itself, so on a small machine the
//     throughput ratio is far below the ratio of the servers' costs. The honest figure is the server's processor time
//     per request: the change of utime+stime of the server over the run, divided by the requests. It contains the
//     server's work on opening and closing the connections.
//   - The benchmark tool sends one random value again and again. A server that compresses gains from that on disk; the
//     memory scenario therefore uses values that don't compress.
//   - "other" is the share of the machine that neither server nor client used in a run: other processes, interrupts.
//     A run with more than -other-max of it is repeated, at most four times.
//   - The value of a read is 256 bytes too; a single key is read.
//   - The memory and compaction scenarios have a client of their own in this process and are single runs. Ready means
//     the first serializable read of a loaded key that succeeds, counted from the start of the process, with a warm
//     page cache; it is the median of three starts. Before each kill -9 a twentieth of the keys is written again, so
//     that there is something to replay. Resident memory includes mapped file pages, of which etcd has many; the anonymous part is printed beside it.
//   - Latencies of the compaction scenario count from the moment when the put was due (2,000 a second), not from when
//     a free connection was found: a stall shows in all puts that it delayed. The window is as long as the compaction
//     or the defragmentation, but at least one second.
//   - The scenarios with watches and leases have a client of their own too, which counts events without decoding them.
//     watch: 10 streams with 100 watchers of one key each, puts as fast as the events arrive; then 100 watchers and 200
//     puts a second, where an event's latency counts from the moment before its put is sent. watch-catch-up: one
//     watcher from the first revision, alone (time and cost) and beside paced puts; "recent" is before, "from disk" after
//     a restart of the server. lease: granted with unary calls, kept alive over 64 streams; then 10,000 leases with a
//     key each that end within one second. watch-overload: puts before any watcher, and then with all of them.
//   - The cluster scenarios start three members of each kind; the tool is given all three addresses, the processor time
//     is the sum over the members. With six servers and the client on two cores the throughput says more of the whole
//     machine than of a server.
//   - An empty member joins as a learner, so that a put waits for no more members than before. It has caught up when it
//     has applied the revision that the cluster was at when it was started.
package main

import (
	"flag"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cairn/tests/harness"
)

type config struct {
	scenarios map[string]bool
	duration  time.Duration
	runs      int
	keys      int
	behind    int
	leases    int
	rate      int
	otherMax  float64
	markdown  bool
	dir       string
	benchmark string
	quick     bool
	alone     bool
	settle    time.Duration

	joinBytes int64
}

var scenarioNames = []string{"put", "range", "txn-put", "memory", "compaction", "watch", "watch-catch-up", "lease",
	"watch-overload", "cluster", "join"}

// aloneNames are the scenarios that can be run without etcd.
var aloneNames = []string{"memory", "join", "compaction", "watch-catch-up", "lease", "watch-overload"}

// Sizes with -quick.
const (
	quickBehind = 20000
	quickLeases = 20000
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	c := config{scenarios: map[string]bool{}}
	names := f.String("scenarios", strings.Join(scenarioNames, ","), "which to run")
	f.DurationVar(&c.duration, "duration", 3*time.Second, "length of one run")
	f.IntVar(&c.runs, "runs", 3, "runs per server and scenario")
	f.IntVar(&c.keys, "keys", harness.EnvInt("CAIRN_KEYS", 1000000), "keys of the memory and compaction scenarios")
	f.IntVar(&c.behind, "behind", 500000, "revisions that a watcher is behind")
	f.IntVar(&c.leases, "leases", 1000000, "leases of the lease scenario")
	f.IntVar(&c.rate, "rate", 2000, "puts per second where puts are paced")
	f.Int64Var(&c.joinBytes, "join-bytes", joinBytes, "values that an empty member has to fetch")
	f.Float64Var(&c.otherMax, "other-max", 0.15, "share of the machine that others may use in a run")
	f.BoolVar(&c.markdown, "markdown", false, "print tables in Markdown")
	f.StringVar(&c.dir, "dir", "", "folder for the servers' data (default: a new one in the temporary folder)")
	f.DurationVar(&c.settle, "settle", 2*time.Second, "pause before memory is read and between the large scenarios")
	f.BoolVar(&c.quick, "quick", false, "only the 100/10 column of the throughput scenarios, and small sizes of those with watches and leases")
	f.BoolVar(&c.alone, "alone", false, "Cairn alone, with sizes that take etcd very long: "+strings.Join(aloneNames, ", "))
	f.Parse(args)
	if c.quick {
		c.behind, c.leases = min(c.behind, quickBehind), min(c.leases, quickLeases)
	}
	for _, name := range strings.Split(*names, ",") {
		known := false
		for _, k := range scenarioNames {
			known = known || k == name
		}
		if !known {
			return fmt.Errorf("no scenario %q; there are %s", name, strings.Join(scenarioNames, ", "))
		}
		if c.alone && !slices.Contains(aloneNames, name) {
			return fmt.Errorf("%s compares: it can't be run with -alone", name)
		}
		c.scenarios[name] = true
	}
	return c.run()
}

func (c *config) run() error {
	var err error
	if c.benchmark, err = harness.Tool("BENCHMARK_BIN", "benchmark", "go.etcd.io/etcd/v3/tools/benchmark"); err != nil {
		return err
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "cairn-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(c.dir)
	}
	fmt.Printf("%s\n\n", machine())
	out := table{markdown: c.markdown}
	if c.scenarios["put"] || c.scenarios["range"] || c.scenarios["txn-put"] {
		if err := c.throughput(&out); err != nil {
			return err
		}
	}
	if c.scenarios["memory"] || c.scenarios["compaction"] {
		if err := c.large(&out); err != nil {
			return err
		}
	}
	for _, x := range []struct {
		name string
		run  func(*table) error
	}{{"watch", c.watch}, {"watch-catch-up", c.watchCatchUp}, {"lease", c.lease}, {"watch-overload", c.watchOverload},
		{"cluster", c.cluster}, {"join", c.join}} {
		if !c.scenarios[x.name] {
			continue
		}
		if err := x.run(&out); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	return nil
}

// ownCPU is the time of the processor that this process, which is the client, has used.
func ownCPU() time.Duration {
	used, err := harness.CPUTime(os.Getpid())
	if err != nil {
		return 0
	}
	return used
}

// servers starts a fresh etcd and a fresh Cairn.
func (c *config) servers(name string) (etcd, cairn *harness.Server, err error) {
	if etcd, err = c.single(harness.Etcd, name); err != nil {
		return nil, nil, err
	}
	if cairn, err = c.single(harness.Cairn, name); err != nil {
		etcd.Close()
		return nil, nil, err
	}
	return etcd, cairn, nil
}

// kinds yields the servers that take part, each with its column.
func (c *config) kinds() iter.Seq2[int, harness.Kind] {
	return func(yield func(int, harness.Kind) bool) {
		if c.alone || yield(0, harness.Etcd) {
			yield(1, harness.Cairn)
		}
	}
}

// single starts one fresh server.
func (c *config) single(kind harness.Kind, name string, args ...string) (*harness.Server, error) {
	bin, err := binary(kind)
	if err != nil {
		return nil, err
	}
	s, err := harness.New(harness.Options{
		Kind: kind, Bin: bin, Dir: filepath.Join(c.dir, name, string(kind)),
		Args: append([]string{"--quota-backend-bytes=8589934592"}, args...),
	})
	if err != nil {
		return nil, err
	}
	if err := s.StartReady(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func binary(kind harness.Kind) (string, error) {
	if kind == harness.Etcd {
		return harness.Tool("ETCD_BIN", "etcd", "go.etcd.io/etcd/server/v3")
	}
	bin := os.Getenv("CAIRN_BIN")
	if bin == "" {
		return "", fmt.Errorf("CAIRN_BIN must name the Cairn server")
	}
	return bin, nil
}
