// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cairn/tests/harness"
)

// The headers that a client may look at. Date differs by nature.
var watchedHeaders = []string{
	"Content-Type", "Content-Length", "Allow", "X-Content-Type-Options", "Location",
	"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
}

type httpAnswer struct {
	status  int
	headers map[string]string
	body    string
}

func ask(t *testing.T, s *harness.Server, method, path string, header http.Header) httpAnswer {
	t.Helper()
	req, err := http.NewRequest(method, s.URL()+path, nil)
	must(t, err)
	for k, v := range header {
		req.Header[k] = v
	}
	client := http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	}
	resp, err := client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	a := httpAnswer{status: resp.StatusCode, headers: map[string]string{}, body: string(body)}
	for _, h := range watchedHeaders {
		if v := resp.Header.Values(h); len(v) > 0 {
			a.headers[h] = strings.Join(v, "; ")
		}
	}
	return a
}

// sortLines makes the order of checks, which is random in etcd, the same.
func sortLines(s string) string {
	lines := strings.Split(s, "\n")
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func (a httpAnswer) String() string {
	return fmt.Sprintf("%d %v\n%.600s", a.status, a.headers, a.body)
}

func sameHTTP(a, b httpAnswer, bodies bool) bool {
	for _, h := range watchedHeaders {
		if h == "Content-Length" && !bodies {
			continue
		}
		if a.headers[h] != b.headers[h] {
			return false
		}
	}
	return a.status == b.status && (!bodies || sortLines(a.body) == sortLines(b.body))
}

// TestHTTP asks both servers' client ports the same.
func TestHTTP(t *testing.T) {
	etcd, cairn := bothServers(t)
	waitForVersion(t, etcd)
	waitForVersion(t, cairn)
	paths := []string{
		"/version", "/version?x=1", "/health", "/health?serializable=true", "/health?serializable=false",
		"/health?exclude=NOSPACE&serializable=true", "/health?exclude=NOSPACE&exclude=CORRUPT", "/health?exclude=FOO",
		"/livez", "/livez?verbose", "/livez?verbose=1", "/livez?exclude=serializable_read",
		"/livez?exclude=serializable_read&verbose", "/livez/serializable_read", "/livez/serializable_read?verbose",
		"/readyz", "/readyz?verbose", "/readyz?exclude=data_corruption&verbose", "/readyz?exclude=foo&verbose",
		"/readyz?exclude=linearizable_read&exclude=non_learner&verbose",
		"/readyz/data_corruption", "/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner",
		"/readyz/linearizable_read?verbose", "/readyz/nope", "/livez/", "/livez/linearizable_read", "/readyz/", "/health/",
		"/version/", "/", "/nope", "/v2/keys", "/config/local/log", "/debug/pprof/", "/metrics/", "/VERSION", "/%76ersion",
		"/health%20", "/livez?", "/livez?verbose&verbose",
	}
	for _, path := range paths {
		compareHTTP(t, etcd, cairn, "GET", path, nil, true)
	}
	for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"} {
		for _, path := range []string{"/version", "/health", "/livez", "/readyz", "/readyz/non_learner", "/nope"} {
			compareHTTP(t, etcd, cairn, method, path, nil, true)
		}
	}
	for _, method := range []string{"GET", "HEAD", "POST"} {
		compareHTTP(t, etcd, cairn, method, "/metrics", nil, false)
	}
	compareHTTP(t, etcd, cairn, "GET", "/version", http.Header{"Origin": {"http://example.org"}}, true)
	compareHTTP(t, etcd, cairn, "OPTIONS", "/version", http.Header{"Origin": {"http://example.org"},
		"Access-Control-Request-Method": {"POST"}}, true)
	compareHTTP(t, etcd, cairn, "GET", "/version", http.Header{"Accept-Encoding": {"gzip"}}, true)
}

func waitForVersion(t *testing.T, s *harness.Server) {
	// The cluster and storage versions are known a few seconds after the first start.
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if a := ask(t, s, "GET", "/version", nil); strings.Contains(a.body, `"storage":"3.7.0"`) &&
			strings.Contains(a.body, `"etcdcluster":"3.7.0"`) {
			return
		}
	}
	t.Errorf("%s: /version never told all versions: %v", s.Kind, ask(t, s, "GET", "/version", nil))
}

func compareHTTP(t *testing.T, etcd, cairn *harness.Server, method, path string, h http.Header, bodies bool) {
	t.Helper()
	want, got := ask(t, etcd, method, path, h), ask(t, cairn, method, path, h)
	if !sameHTTP(want, got, bodies) {
		t.Errorf("%s %s %v\n etcd: %v\n Cairn: %v", method, path, h, want, got)
	}
}

// TestHTTPRaw sends requests that no HTTP library would: both servers must take or refuse them alike. Only status codes
// are compared. Where etcd, whose port splitter looks at the first line only, hangs up without a word, an error will do;
// so will 431 for headers of 100 kB.
func TestHTTPRaw(t *testing.T) {
	etcd, cairn := bothServers(t)
	for _, request := range []string{
		"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/1.0\r\n\r\n",
		"GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /health HTTP/1.0\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/1.1\nHost: x\nConnection: close\n\n",
		"GET /version HTTP/1.1\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
		"GET http://x/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\nBad Header: y\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
		"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
		"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\nConnection: close\r\n\r\n",
		"GET version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /ver\x00sion HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/9.9\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /version\r\n\r\n",
		"get /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET /version HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 100000) + "\r\nConnection: close\r\n\r\n",
		"GET /" + strings.Repeat("y", 5000) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		want, got := rawStatus(t, etcd, request), rawStatus(t, cairn, request)
		refused := len(got) == 3 && got >= "400"
		if want != got && !(refused && (want == "" || got == "431")) {
			t.Errorf("%.200q\n etcd: %q\n Cairn: %q", request, want, got)
		}
	}
}

// rawStatus returns the status codes of the answers.
func rawStatus(t *testing.T, s *harness.Server, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	must(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, request)
	body, _ := io.ReadAll(conn)
	var lines []string
	for _, line := range strings.Split(string(body), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(line, "HTTP/") {
			lines = append(lines, f[1])
		}
	}
	return strings.Join(lines, " | ")
}

// Metric families that must be there, with the names and labels of etcd's dashboards and alerts. Those of the peer
// side exist only in clusters and are not listed.
var requiredMetrics = []string{
	"etcd_server_has_leader", "etcd_server_is_leader", "etcd_server_leader_changes_seen_total",
	"etcd_server_proposals_committed_total", "etcd_server_proposals_applied_total", "etcd_server_proposals_pending",
	"etcd_server_proposals_failed_total", "etcd_server_quota_backend_bytes", "etcd_server_version",
	"etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes",
	"etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds",
	"etcd_network_client_grpc_received_bytes_total", "etcd_network_client_grpc_sent_bytes_total",
	"grpc_server_started_total", "grpc_server_handled_total",
	"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds",
}

// family is what a metric family declares and which labels its samples carry.
type family struct{ kind, labels string }

func families(t *testing.T, s *harness.Server) map[string]family {
	body := ask(t, s, "GET", "/metrics", nil).body
	all := map[string]family{}
	name := ""
	for _, line := range strings.Split(body, "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 4 && f[0] == "#" && f[1] == "TYPE":
			name = f[2]
			all[name] = family{kind: f[3]}
		case line == "" || strings.HasPrefix(line, "#"):
		default:
			if !strings.HasPrefix(line, name) {
				t.Errorf("%s: sample outside its family %s: %s", s.Kind, name, line)
			}
			x := all[name]
			x.labels = labelNames(line)
			all[name] = x
		}
	}
	return all
}

func labelNames(line string) string {
	open, close := strings.IndexByte(line, '{'), strings.LastIndexByte(line, '}')
	if open < 0 || close < open {
		return ""
	}
	var names []string
	for _, part := range strings.Split(line[open+1:close], ",") {
		if name, _, ok := strings.Cut(part, "="); ok && name != "le" && name != "quantile" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return strings.Join(names, ",")
}

// TestMetrics checks that the families that dashboards need exist and that no family of an etcd name has another type
// or other labels than etcd's.
func TestMetrics(t *testing.T) {
	etcd, cairn := bothServers(t)
	for _, s := range []*harness.Server{etcd, cairn} {
		c := newClient(t, s)
		_, err := c.Put(harness.Context(t, time.Minute), unique(t, "k"), "v")
		must(t, err)
	}
	want, got := families(t, etcd), families(t, cairn)
	for _, name := range requiredMetrics {
		if _, ok := want[name]; !ok {
			t.Errorf("etcd has no %s: the list is wrong", name)
		}
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	both := 0
	for name, f := range got {
		e, ok := want[name]
		switch {
		case ok && e != f:
			t.Errorf("%s: etcd has %+v, Cairn %+v", name, e, f)
		case ok:
			both++
		case strings.HasPrefix(name, "etcd_") || strings.HasPrefix(name, "grpc_"):
			t.Errorf("%s is no metric of etcd: Cairn's own begin with cairn_", name)
		}
	}
	t.Logf("%d families of etcd's %d, %d of Cairn's own", both, len(want), len(got)-both)
}

// TestMetricsCount checks that the proposals are counted as they happen.
func TestMetricsCount(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	before := counter(t, s, "etcd_server_proposals_committed_total")
	puts := counter(t, s, "etcd_mvcc_put_total")
	for i := 0; i < 25; i++ {
		_, err := c.Put(ctx, "k", fmt.Sprint(i))
		must(t, err)
	}
	if n := counter(t, s, "etcd_mvcc_put_total") - puts; n != 25 {
		t.Errorf("25 puts raised etcd_mvcc_put_total by %v", n)
	}
	// The state of the proposals is published once a turn, which may be just after the last answer.
	var committed, applied, pending float64
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		committed = counter(t, s, "etcd_server_proposals_committed_total") - before
		applied = counter(t, s, "etcd_server_proposals_applied_total") - before
		pending = counter(t, s, "etcd_server_proposals_pending")
		if committed >= 25 && applied == committed && pending == 0 {
			return
		}
	}
	t.Errorf("after 25 puts: %v committed, %v applied, %v pending", committed, applied, pending)
}

func counter(t *testing.T, s *harness.Server, name string) float64 {
	t.Helper()
	for _, line := range strings.Split(ask(t, s, "GET", "/metrics", nil).body, "\n") {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			var v float64
			_, err := fmt.Sscan(f[1], &v)
			must(t, err)
			return v
		}
	}
	t.Errorf("no metric %s", name)
	return 0
}

// Metrics that must have the same value in both servers after the same requests.
var equalMetrics = []string{
	"etcd_mvcc_put_total", "etcd_mvcc_range_total", "etcd_mvcc_delete_total", "etcd_mvcc_txn_total",
	"etcd_debugging_mvcc_total_put_size_in_bytes", "etcd_debugging_mvcc_current_revision",
	"etcd_debugging_mvcc_compact_revision", "etcd_debugging_lease_granted_total",
	"etcd_debugging_lease_revoked_total", "etcd_debugging_lease_ttl_total_sum", "etcd_debugging_lease_ttl_total_count",
	"etcd_mvcc_hash_rev_duration_seconds_count", "etcd_disk_backend_defrag_duration_seconds_count",
	"etcd_disk_defrag_inflight", "etcd_server_read_indexes_failed_total",
	"etcd_server_heartbeat_send_failures_total", "etcd_server_snapshot_apply_in_progress_total",
	"etcd_server_learner_promote_successes", "etcd_server_quota_backend_bytes", "etcd_server_is_learner", "os_fd_limit",
	"process_max_fds", "process_virtual_memory_max_bytes",
}

// Families whose samples, labels included, must be the same.
var equalFamilies = []string{"etcd_cluster_version", "etcd_server_feature_enabled", "etcd_server_version"}

// exerciseStore makes requests of every kind that the store counts.
func exerciseStore(t *testing.T, s *harness.Server) {
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	do := func(ops ...clientv3.Op) {
		t.Helper()
		for _, op := range ops {
			_, err := c.Do(ctx, op)
			must(t, err)
		}
	}
	put, get, del := clientv3.OpPut, clientv3.OpGet, clientv3.OpDelete
	prev, prefix := clientv3.WithPrevKV(), clientv3.WithPrefix()
	do(put("a", "1"), put("b", "22"), put("c", "333"), put("a", "4444", prev), put("a", "", clientv3.WithIgnoreValue()),
		get("a"), get("a", clientv3.WithSerializable()), get("", prefix), get("", prefix, clientv3.WithCountOnly()),
		del("b"), del("none"), del("c", prev))
	if _, err := c.Do(ctx, put("none", "", clientv3.WithIgnoreValue())); err == nil {
		t.Error("ignore_value without a key was taken")
	}
	absent := func(key string) clientv3.Cmp { return clientv3.Compare(clientv3.ModRevision(key), "=", 0) }
	present := clientv3.Compare(clientv3.ModRevision("a"), ">", 0)
	create := func(key string) clientv3.Op {
		return clientv3.OpTxn([]clientv3.Cmp{absent(key)}, []clientv3.Op{put(key, "55555")}, []clientv3.Op{get(key)})
	}
	do(create("t"), create("t"),
		clientv3.OpTxn([]clientv3.Cmp{present, absent("t")}, nil, []clientv3.Op{put("u", "1", prev), put("v", "2"),
			get("u"), del("t", prev), create("x")}),
		clientv3.OpTxn([]clientv3.Cmp{present, present}, []clientv3.Op{get("a"), get("", prefix)}, nil),
		clientv3.OpTxn(nil, []clientv3.Op{put("w", "")}, nil))
	grant, err := c.Grant(ctx, 600)
	must(t, err)
	do(put("l1", "x", clientv3.WithLease(grant.ID)), put("l2", "x", clientv3.WithLease(grant.ID)))
	_, err = c.Revoke(ctx, grant.ID)
	must(t, err)
	_, err = c.HashKV(ctx, s.Addr(), 0)
	must(t, err)
	_, err = c.Defragment(ctx, s.Addr())
	must(t, err)
}

func samples(t *testing.T, s *harness.Server, family string) string {
	var lines []string
	for _, line := range strings.Split(ask(t, s, "GET", "/metrics", nil).body, "\n") {
		if strings.HasPrefix(line, family+"{") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// soonEqual returns what the two servers tell, at the latest after the limit: some things are known or counted a moment later.
func soonEqual[S any, T float64 | string](limit time.Duration, etcd, cairn S, tell func(s S) T) (e, c T) {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if e, c = tell(etcd), tell(cairn); e == c || time.Now().After(deadline) {
			return e, c
		}
	}
}

// TestMetricsEqual makes the same requests to both servers; what counts them must have grown by the same.
func TestMetricsEqual(t *testing.T) {
	gates := "--feature-gates=AllAlpha=true,LeaseCheckpointPersist=false,FastLeaseKeepAlive=false"
	etcd, cairn := harness.StartForTest(t, harness.Etcd, gates), harness.StartForTest(t, harness.Cairn, gates)
	servers := []*harness.Server{etcd, cairn}
	before := map[*harness.Server]map[string]float64{}
	for _, s := range servers {
		before[s] = map[string]float64{}
		for _, name := range equalMetrics {
			before[s][name] = counter(t, s, name)
		}
		exerciseStore(t, s)
	}
	for _, name := range equalMetrics {
		e, c := soonEqual(5*time.Second, etcd, cairn, func(s *harness.Server) float64 { return counter(t, s, name) - before[s][name] })
		if e != c {
			t.Errorf("%s grew by %v in etcd, by %v in Cairn", name, e, c)
		}
	}
	// It is there; how many are slow is up to the machine.
	counter(t, cairn, "etcd_server_slow_read_indexes_total")
	for _, s := range servers { // etcd counts a look of its own after each compaction as a range.
		_, err := newClient(t, s).Compact(harness.Context(t, time.Minute), 5)
		must(t, err)
	}
	for _, name := range equalMetrics {
		if strings.Contains(name, "limit") || strings.Contains(name, "max") || strings.Contains(name, "quota") ||
			strings.Contains(name, "compact_revision") {
			e, c := soonEqual(5*time.Second, etcd, cairn, func(s *harness.Server) float64 { return counter(t, s, name) })
			if e != c {
				t.Errorf("%s is %v in etcd, %v in Cairn", name, e, c)
			}
		}
	}
	for _, family := range equalFamilies {
		if e, c := samples(t, etcd, family), samples(t, cairn, family); e != c || e == "" {
			t.Errorf("%s: etcd has\n%s\nCairn\n%s", family, e, c)
		}
	}
}

// TestMetricsProcess compares what the process says of itself with what the system says of it.
func TestMetricsProcess(t *testing.T) {
	began := float64(time.Now().Add(-time.Second).Unix())
	s := harness.StartForTest(t, harness.Cairn)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	must(t, err)
	var rss float64
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmRSS:") {
			fmt.Sscan(strings.TrimPrefix(line, "VmRSS:"), &rss)
		}
	}
	if v := counter(t, s, "process_resident_memory_bytes"); v < rss*1024/2 || v > rss*1024*2 {
		t.Errorf("process_resident_memory_bytes is %v, the system says %v KiB", v, rss)
	}
	// The connection that asks is one more. Those that asked before go soon, and files are made in the background.
	eventually(t, "process_open_fds is what the system says", func() bool {
		fds, err := harness.FileCount(s.Pid())
		must(t, err)
		v := counter(t, s, "process_open_fds")
		return v >= float64(fds) && v <= float64(fds+2)
	})
	now := float64(time.Now().Unix())
	if v := counter(t, s, "process_start_time_seconds"); v < began || v > now+1 {
		t.Errorf("process_start_time_seconds is %v, it was started between %v and %v", v, began, now)
	}
	if v := counter(t, s, "process_cpu_seconds_total"); v < 0 || v > now+1-began {
		t.Errorf("process_cpu_seconds_total is %v after %v seconds", v, now-began)
	}
}

// TestMetricsAfterRestart checks that the state of the store shows before anything is written.
func TestMetricsAfterRestart(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	for i := 0; i < 5; i++ {
		_, err := c.Put(ctx, "k", "v")
		must(t, err)
	}
	_, err := c.Compact(ctx, 4)
	must(t, err)
	for samples(t, s, "etcd_cluster_version") == "" { // The leader decides it a moment after it leads.
		must(t, ctx.Err())
	}
	_, err = s.Terminate()
	must(t, err)
	must(t, s.StartReady())
	for name, want := range map[string]float64{
		"etcd_debugging_mvcc_current_revision": 6, "etcd_debugging_mvcc_compact_revision": 4,
	} {
		if v := counter(t, s, name); v != want {
			t.Errorf("%s is %v after a restart, want %v", name, v, want)
		}
	}
	if v := samples(t, s, "etcd_cluster_version"); v != `etcd_cluster_version{cluster_version="3.7"} 1` {
		t.Errorf("after a restart: %s", v)
	}
}
