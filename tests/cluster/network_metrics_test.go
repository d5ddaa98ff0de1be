// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// samples are a member's etcd_network_* series by their text in /metrics, members' ids in it replaced by their names.
type samples map[string]float64

func scrape(t *testing.T, c *harness.Cluster, m *harness.Member) samples {
	t.Helper()
	resp, err := http.Get(m.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all := samples{}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 16<<20))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || !strings.HasPrefix(name, "etcd_network_") {
			continue
		}
		for _, other := range c.Members {
			name = strings.ReplaceAll(name, fmt.Sprintf("%q", fmt.Sprintf("%x", other.ID)), fmt.Sprintf("%q", other.Name))
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s of %s: %v", name, m.Name, err)
		}
		all[name] = number
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// declared are the lines that say what a family is.
func declared(t *testing.T, m *harness.Member) (lines []string) {
	t.Helper()
	resp, err := http.Get(m.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(body), "\n") {
		if strings.HasPrefix(line, "# ") && strings.Contains(line, " etcd_network_") {
			lines = append(lines, line)
		}
	}
	return lines
}

// networkSeries is what came of the same work on three members of one kind.
type networkSeries struct {
	declared []string   // By any member, in the end.
	series   [3]samples // Of each member, in the end.
}

// work is: writes through the leader, a follower killed, missed too much and back by snapshot, writes again.
func work(t *testing.T, kind harness.Kind) (result networkSeries) {
	t.Helper()
	c := harness.StartCluster(t, []harness.Kind{kind, kind, kind}, "--snapshot-count=100", "--snapshot-catchup-entries=10", steady)
	leader, other, follower := c.Members[0], c.Members[1], c.Members[2]
	c.MoveLeader(leader)
	c.WaitConverged()

	before := scrape(t, c, leader)
	putKeys(t, leader, "first", 50)
	grow(t, c, leader, before, `etcd_network_peer_sent_bytes_total{To="m1"}`, `etcd_network_peer_sent_bytes_total{To="m2"}`,
		`etcd_network_peer_received_bytes_total{From="m1"}`, `etcd_network_peer_received_bytes_total{From="m2"}`)
	active := []string{`etcd_network_active_peers{Local="m0",Remote="m1"}`, `etcd_network_active_peers{Local="m0",Remote="m2"}`}
	is(t, c, leader, 1, active...)

	lost := `etcd_network_disconnected_peers_total{Local="m0",Remote="m2"}`
	losses := scrape(t, c, leader)[lost]
	c.Kill(follower)
	is(t, c, leader, 0, active[1])
	is(t, c, leader, 1, active[0])
	is(t, c, leader, losses+1, lost)
	putKeys(t, leader, "missed", 300)
	c.Restart(follower)
	c.WaitReady(follower)
	is(t, c, leader, 1, active...)
	is(t, c, leader, 1, `etcd_network_snapshot_send_success{To="m2"}`,
		`etcd_network_snapshot_send_total_duration_seconds_count{To="m2"}`)
	is(t, c, follower, 1, `etcd_network_snapshot_receive_success{From="m0"}`,
		`etcd_network_snapshot_receive_total_duration_seconds_count{From="m0"}`)
	is(t, c, leader, 0, `etcd_network_snapshot_send_inflights_total{To="m2"}`)
	is(t, c, follower, 0, `etcd_network_snapshot_receive_inflights_total{From="m0"}`)
	for _, m := range []*harness.Member{leader, other, follower} {
		for _, to := range but(c.Members, m) { // The first probe is told after 5 s, later ones every 30.
			grow(t, c, m, samples{}, fmt.Sprintf(`etcd_network_peer_round_trip_time_seconds_count{To="%s"}`, to.Name),
				fmt.Sprintf(`etcd_network_peer_round_trip_time_seconds_sum{To="%s"}`, to.Name))
		}
	}
	before = scrape(t, c, leader)
	putKeys(t, leader, "last", 50)
	grow(t, c, leader, before, `etcd_network_peer_sent_bytes_total{To="m2"}`, `etcd_network_peer_received_bytes_total{From="m2"}`)

	for i, m := range c.Members {
		result.declared = append(result.declared, declared(t, m)...)
		result.series[i] = scrape(t, c, m)
	}
	slices.Sort(result.declared)
	result.declared = slices.Compact(result.declared)
	return result
}

// grow waits until all of these are more than they were before.
func grow(t *testing.T, c *harness.Cluster, m *harness.Member, before samples, names ...string) {
	t.Helper()
	waitSamples(t, c, m, names, func(now samples, name string) bool { return now[name] > before[name] })
}

// is waits until all of these are there and have a value.
func is(t *testing.T, c *harness.Cluster, m *harness.Member, want float64, names ...string) {
	t.Helper()
	waitSamples(t, c, m, names, func(now samples, name string) bool {
		value, there := now[name]
		return there && value == want
	})
}

func waitSamples(t *testing.T, c *harness.Cluster, m *harness.Member, names []string, ok func(samples, string) bool) {
	t.Helper()
	for deadline := time.Now().Add(75 * time.Second); ; time.Sleep(50 * time.Millisecond) { // Some are told every 30 s.
		now := scrape(t, c, m)
		wrong := slices.IndexFunc(names, func(name string) bool { return !ok(now, name) })
		if wrong < 0 {
			return
		}
		if time.Now().After(deadline) {
			value, there := now[names[wrong]]
			t.Fatalf("%s (%s): %s is %v (there: %v)", m.Name, m.Kind, names[wrong], value, there)
		}
	}
}

// TestNetworkMetrics gives three members of etcd and three of Cairn the same work. Families, texts, names, labels and
// buckets must be the same, and each moves when it should, in etcd as in Cairn. Cairn shows a member's series from
// zero on, where etcd shows those of which something has happened: so zeros may be more.
func TestNetworkMetrics(t *testing.T) {
	want := work(t, harness.Etcd)
	if mode() == string(harness.Etcd) {
		return
	}
	got := work(t, harness.Cairn)
	for _, line := range want.declared {
		if !slices.Contains(got.declared, line) && !happens("", line) {
			t.Errorf("no member of Cairn says %s", line)
		}
	}
	for _, line := range got.declared {
		if !slices.Contains(want.declared, line) && !happens("", line) {
			t.Errorf("no member of etcd says %s", line)
		}
	}
	for i := range want.series {
		member := fmt.Sprintf("m%d", i)
		for _, name := range slices.Sorted(maps.Keys(want.series[i])) {
			if _, there := got.series[i][name]; !there && !happens(member, name) {
				t.Errorf("%s lacks %s", member, name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(got.series[i])) {
			if _, there := want.series[i][name]; !there && got.series[i][name] != 0 && !happens(member, name) {
				t.Errorf("%s has %s, which is %v", member, name, got.series[i][name])
			}
		}
	}
}

// happens tells what chance may bring: failures, disconnections of which nothing was demanded, and what one follower
// says to another, which is votes.
func happens(member, name string) bool {
	between := member != "m0" && (strings.Contains(name, `"m1"`) || strings.Contains(name, `"m2"`))
	return strings.Contains(name, "_failures") || strings.Contains(name, "_disconnected_peers") ||
		between && strings.Contains(name, "_bytes_total{")
}
