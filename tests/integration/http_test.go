// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strings"
	"testing"
	"time"

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
