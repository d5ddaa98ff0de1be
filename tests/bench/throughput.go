// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// scenario is one command of etcd's benchmark tool.
type scenario struct {
	group          string
	name           string
	args           []string
	clients, conns int
}

const (
	valueBytes = 256
	readKey    = "foo"
)

func (c *config) list(groups map[string]bool) []scenario {
	var all []scenario
	add := func(group, name string, args ...string) {
		for _, load := range [][2]int{{1, 1}, {100, 10}, {1000, 100}} {
			middle := load[0] == 100
			if groups[group] && (middle || !c.quick && group != "txn-put") {
				all = append(all, scenario{group, fmt.Sprintf("%s %d/%d", name, load[0], load[1]), args, load[0], load[1]})
			}
		}
	}
	value := fmt.Sprintf("--val-size=%d", valueBytes)
	add("put", "put", "put", value, "--key-size=8", "--key-space-size=100000", "--sequential-keys")
	add("range", "range linearizable", "range", readKey, "--consistency=l")
	add("range", "range serializable", "range", readKey, "--consistency=s")
	add("txn-put", "txn-put", "txn-put", value, "--key-size=8", "--key-space-size=100000", "--txn-ops=1")
	return all
}

// sample is what one run of the tool gave.
type sample struct {
	perSecond           float64
	p50, p99            time.Duration
	serverCPU, clientUs float64 // Microseconds per request.
	rss                 int64
	other               float64
}

var (
	rateLine    = regexp.MustCompile(`Requests/sec:\s+([0-9.eE+-]+)`)
	percentLine = regexp.MustCompile(`(?m)^\s+([0-9.]+)% in ([0-9.eE+-]+) secs`)
)

// parse reads the tool's report.
func parse(report []byte) (sample, error) {
	var s sample
	if bytes.Contains(report, []byte("Error distribution")) {
		return s, fmt.Errorf("the benchmark tool saw errors:\n%s", report)
	}
	m := rateLine.FindSubmatch(report)
	if m == nil {
		return s, fmt.Errorf("no rate in the benchmark tool's report:\n%s", report)
	}
	var err error
	if s.perSecond, err = strconv.ParseFloat(string(m[1]), 64); err != nil {
		return s, err
	}
	for _, m := range percentLine.FindAllSubmatch(report, -1) {
		seconds, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return s, err
		}
		switch string(m[1]) {
		case "50":
			s.p50 = time.Duration(seconds * 1e9)
		case "99":
			s.p99 = time.Duration(seconds * 1e9)
		}
	}
	if s.p50 == 0 || s.p99 == 0 {
		return s, fmt.Errorf("no percentiles in the benchmark tool's report:\n%s", report)
	}
	return s, nil
}

// target is what the tool asks: one server, or all members of a cluster.
type target []*harness.Server

func (t target) endpoints() string {
	var list []string
	for _, s := range t {
		list = append(list, s.Addr())
	}
	return strings.Join(list, ",")
}

// cpu is the processor time of all members so far.
func (t target) cpu() (sum time.Duration, err error) {
	for _, s := range t {
		one, err := harness.CPUTime(s.Pid())
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

func (t target) rss() (sum int64, err error) {
	for _, s := range t {
		one, err := harness.MemoryOf(s.Pid())
		if err != nil {
			return 0, err
		}
		sum += one.RSS
	}
	return sum, nil
}

func (t target) close() {
	for _, s := range t {
		s.Close()
	}
}

// measure runs the tool once for a number of requests.
func (c *config) measure(sc scenario, to target, total int) (sample, error) {
	args := append(append([]string{}, sc.args...), "--endpoints="+to.endpoints(), "--precise",
		fmt.Sprintf("--clients=%d", sc.clients), fmt.Sprintf("--conns=%d", sc.conns), fmt.Sprintf("--total=%d", total))
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(c.benchmark, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cpuBefore, err := to.cpu()
	if err != nil {
		return sample{}, err
	}
	allBefore, idleBefore := harness.MachineCPU()
	if err := harness.Launch(cmd); err != nil {
		return sample{}, err
	}
	if err := cmd.Wait(); err != nil {
		return sample{}, fmt.Errorf("%v: %w\n%s", cmd.Args, err, stderr.Bytes())
	}
	allAfter, idleAfter := harness.MachineCPU()
	cpuAfter, err := to.cpu()
	if err != nil {
		return sample{}, err
	}
	s, err := parse(stdout.Bytes())
	if err != nil {
		return s, err
	}
	client := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.serverCPU = (cpuAfter - cpuBefore).Seconds() * 1e6 / float64(total)
	s.clientUs = client.Seconds() * 1e6 / float64(total)
	if span := allAfter - allBefore; span > 0 {
		used := (client + cpuAfter - cpuBefore).Seconds() * 100
		s.other = (float64(allAfter-allBefore-(idleAfter-idleBefore)) - used) / float64(span)
	}
	s.rss, err = to.rss()
	return s, err
}

// persist measures again when requests failed, as they do in an election or behind a disk that stalls.
func (c *config) persist(sc scenario, to target, total int) (s sample, err error) {
	for try := 1; ; try++ {
		if s, err = c.measure(sc, to, total); err == nil || try == 3 {
			return s, err
		}
		fmt.Fprintf(os.Stderr, "bench: %s, %s, run once more: %v\n", sc.name, to[0].Kind, err)
	}
}

// calibrate finds how many requests fill the wanted duration, warming the server up on the way.
func (c *config) calibrate(sc scenario, to target) (int, error) {
	total := 200 * sc.clients / max(1, sc.clients/20)
	for range 3 {
		s, err := c.persist(sc, to, total)
		if err != nil {
			return 0, err
		}
		next := int(s.perSecond * c.duration.Seconds())
		if next < total*3/2 {
			return max(next, 10*sc.clients), nil
		}
		total = min(next, total*10)
	}
	return total, nil
}

func (c *config) throughput(out *table) error {
	etcd, cairn, err := c.servers("throughput")
	if err != nil {
		return err
	}
	defer etcd.Close()
	defer cairn.Close()
	return c.compare(out, "scenario (clients/connections)", c.scenarios, [2]target{{etcd}, {cairn}})
}

// compare runs the tool's scenarios against etcd and Cairn in turns.
func (c *config) compare(out *table, title string, groups map[string]bool, pair [2]target) error {
	for _, to := range pair {
		if err := putOne(to[0], readKey, randomValue(rand.New(rand.NewPCG(1, 2)))); err != nil {
			return err
		}
	}
	out.start(title, "req/s", "ratio", "p50 ms", "ratio", "p99 ms", "ratio",
		"server us/req", "ratio", "client us/req", "RSS MiB", "other %")
	for _, sc := range c.list(groups) {
		var totals [2]int
		var err error
		for i, to := range pair {
			if totals[i], err = c.calibrate(sc, to); err != nil {
				return fmt.Errorf("%s, %s: %w", sc.name, to[0].Kind, err)
			}
		}
		var samples [2][]sample
		for n := 0; n < c.runs; n++ {
			for i, to := range pair {
				got, err := c.measureQuiet(sc, to, totals[i])
				if err != nil {
					return fmt.Errorf("%s, %s: %w", sc.name, to[0].Kind, err)
				}
				samples[i] = append(samples[i], got)
			}
		}
		out.add(compareRow(sc.name, samples[0], samples[1])...)
	}
	out.end()
	return nil
}

// measureQuiet repeats a run that other processes disturbed.
func (c *config) measureQuiet(sc scenario, to target, total int) (s sample, err error) {
	for range 5 {
		if s, err = c.persist(sc, to, total); err != nil || s.other <= c.otherMax {
			return s, err
		}
	}
	return s, nil
}

func compareRow(name string, etcd, cairn []sample) []string {
	rate := func(s sample) float64 { return s.perSecond }
	p50 := func(s sample) float64 { return s.p50.Seconds() * 1e3 }
	p99 := func(s sample) float64 { return s.p99.Seconds() * 1e3 }
	cpu := func(s sample) float64 { return s.serverCPU }
	client := func(s sample) float64 { return s.clientUs }
	rss := func(s sample) float64 { return float64(s.rss) / (1 << 20) }
	other := func(s sample) float64 { return s.other * 100 }
	both := func(f func(sample) float64, digits int) string {
		return spreadOf(etcd, f).text(digits) + " / " + spreadOf(cairn, f).text(digits)
	}
	ratio := func(f func(sample) float64) string {
		return fmt.Sprintf("%.2f", spreadOf(cairn, f).median/spreadOf(etcd, f).median)
	}
	highest := max(spreadOf(etcd, other).high, spreadOf(cairn, other).high)
	return []string{name, both(rate, 0), ratio(rate), both(p50, 2), ratio(p50), both(p99, 2), ratio(p99), both(cpu, 1),
		ratio(cpu), both(client, 1), both(rss, 0), fmt.Sprintf("%.0f", highest)}
}

func randomValue(rng *rand.Rand) []byte { return randomBytes(rng, valueBytes) }

func randomBytes(rng *rand.Rand, n int) []byte {
	v := make([]byte, n)
	for i := 0; i < len(v); i += 8 {
		x := rng.Uint64()
		for j := 0; j < 8 && i+j < len(v); j++ {
			v[i+j] = byte(x >> (8 * j))
		}
	}
	return v
}

func putOne(s *harness.Server, key string, value []byte) error {
	conn, err := s.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value})
	return err
}
