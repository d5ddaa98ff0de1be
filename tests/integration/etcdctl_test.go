// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// ctl runs etcdctl against a server and returns what it printed and its exit code.
func ctl(t *testing.T, s *harness.Server, stdin string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.EtcdctlBin(t), append([]string{"--endpoints=" + s.Addr()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("etcdctl %q did not end", args)
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	// The client's own log lines carry times and addresses; the message proper follows on a line of its own.
	var lines []string
	for _, line := range strings.Split(errs.String(), "\n") {
		if !strings.HasPrefix(line, "{") && line != "" {
			lines = append(lines, "stderr: "+line)
		}
	}
	return out.String() + strings.Join(lines, "\n"), cmd.ProcessState.ExitCode()
}

var (
	blankKeys = map[string]bool{
		"cluster_id": true, "member_id": true, "raft_term": true, "dbSize": true, "dbSizeInUse": true, "leader": true,
		"raftIndex": true, "raftTerm": true, "raftAppliedIndex": true, "took": true, "Endpoint": true, "endpoint": true,
		"peerURLs": true, "clientURLs": true, "ID": true, "id": true, "storageVersion": true, "ttl": true,
	}
	blankText = []struct {
		re   *regexp.Regexp
		with string
	}{
		{regexp.MustCompile(`127\.0\.0\.1:[0-9]+`), "ADDR"},
		{regexp.MustCompile(`[0-9.]+(ms|µs|s)\b`), "TIME"},
		{regexp.MustCompile(`("(ClusterID|MemberID|RaftTerm|RaftIndex|RaftAppliedIndex|Leader|DBSize|DBSizeInUse|ID|TTL)" :) [0-9]+`), "$1 N"},
		{regexp.MustCompile(`"StorageVersion" : "[0-9.]*"`), "STORAGE"},
		{regexp.MustCompile(`\b[0-9a-f]{12,16}\b`), "HEX"},
		{regexp.MustCompile(`remaining\([0-9]+s\)`), "remaining"},
	}
)

// comparable takes out of an output what differs between any two servers.
func comparable(out string) string {
	var v any
	if json.Unmarshal([]byte(out), &v) == nil {
		if _, number := v.(float64); !number {
			blank(v)
			b, _ := json.Marshal(v)
			return string(b)
		}
	}
	for _, x := range blankText {
		out = x.re.ReplaceAllString(out, x.with)
	}
	return out
}

func blank(v any) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			blank(x)
		}
	case map[string]any:
		for key, x := range v {
			if blankKeys[key] {
				v[key] = "BLANK"
			} else {
				blank(x)
			}
		}
	}
}

// TestEtcdctl gives both servers the same commands; output and exit code must be the same.
func TestEtcdctl(t *testing.T) {
	cairn, etcd := harness.StartForTest(t, harness.Cairn), harness.StartForTest(t, harness.Etcd)
	const stdinTxn = "mod(\"foo\") > \"0\"\nvalue(\"foo\") = \"bar\"\n\nput foo txn\nget foo\nget a --prefix\n\nput none x\n\n"
	for _, x := range []struct {
		stdin string
		args  string
	}{
		{"", "put foo bar"}, {"", "put a/1 one"}, {"", "put a/2 two"}, {"", "put a/3 three -w json"},
		{"", "put foo bar --prev-kv"}, {"", "put foo bar --prev-kv -w json"}, {"from stdin", "put stdin"},
		{"", "put foo x --ignore-value"}, {"", "put foo --ignore-value"}, {"", "put new --ignore-value"},
		{"", "put foo x --lease=1234"}, {"", "put foo y --ignore-lease"},
		{"", "get foo"}, {"", "get foo -w json"}, {"", "get foo -w fields"}, {"", "get foo --hex"},
		{"", "get none"}, {"", "get none -w json"},
		{"", "get a --prefix"}, {"", "get a --prefix --keys-only"}, {"", "get a --prefix --keys-only -w json"},
		{"", "get a --prefix --limit=2 -w json"}, {"", "get a --prefix --count-only -w fields"},
		{"", "get a --prefix --print-value-only"}, {"", "get a a/3"}, {"", "get a/2 --from-key"},
		{"", "get a --prefix --sort-by=MODIFY --order=DESCEND"}, {"", "get a --prefix --sort-by=VALUE --order=ASCEND"},
		{"", "get a --prefix --rev=3"}, {"", "get a --rev=999"}, {"", "get a --prefix --consistency=s -w json"},
		{"", "get a --prefix --min-mod-rev=4"}, {"", "get a --prefix --max-create-rev=3"},
		{"", "get a --prefix --stream"}, {"", "get a --prefix --stream -w json"}, {"", "get none --stream"},
		{"", "get a --prefix --stream --limit=2"}, {"", "get a --prefix --stream --order=DESCEND --sort-by=KEY"},
		{stdinTxn, "txn"}, {stdinTxn, "txn -w json"}, {"\nput x 1\nput x 2\n\n\n", "txn"}, {"\n\n\n", "txn"},
		{"version(\"none\") = \"0\"\n\ndel a/1\n\n\n", "txn -w fields"},
		{"", "del a/2"}, {"", "del a/2"}, {"", "del a/2 -w json"}, {"", "del a --prefix --prev-kv"},
		{"", "put b/1 1"}, {"", "put b/2 2"}, {"", "del b --prefix --prev-kv -w json"}, {"", "del b --from-key"},
		{"", "put foo last"}, {"", "compaction 5"}, {"", "compaction 5"}, {"", "compaction 999"}, {"", "compaction 0"},
		{"", "compaction 9 --physical"}, {"", "get foo --rev=4"}, {"", "compaction"}, {"", "put"},
		{"", "lease grant 500"}, {"", "lease grant 500 -w json"}, {"", "lease grant 9999999999"},
		{"", "lease timetolive 1234"}, {"", "lease timetolive 1234 -w json"}, {"", "lease timetolive 1234 --keys"},
		{"", "lease revoke 1234"}, {"", "lease revoke xyz"}, {"", "lease list"}, {"", "lease list -w json"},
		{"", "endpoint status"}, {"", "endpoint status -w json"}, {"", "endpoint status -w fields"},
		{"", "endpoint status --cluster -w json"},
		{"", "endpoint health"}, {"", "endpoint health -w json"}, {"", "endpoint health -w fields"},
		{"", "endpoint hashkv"}, {"", "endpoint hashkv -w json"}, {"", "endpoint hashkv --rev=10 -w json"},
		{"", "endpoint hashkv --rev=3 -w json"}, {"", "endpoint hashkv --rev=999 -w json"},
		{"", "member list"}, {"", "member list -w json"}, {"", "member list -w fields"}, {"", "member list -w table"},
		{"", "defrag"}, {"", "defrag --cluster"}, {"", "get foo -w json"},
	} {
		args := strings.Fields(x.args)
		want, wantCode := ctl(t, etcd, x.stdin, args...)
		got, gotCode := ctl(t, cairn, x.stdin, args...)
		if x.args == "endpoint status" {
			// One line of many numbers: compare the columns that must agree.
			want, got = columns(want, 2, 7, 8, 9, 13, 14, 15), columns(got, 2, 7, 8, 9, 13, 14, 15)
		}
		if x.args == "member list -w table" { // The frame is as wide as the ids and addresses.
			want, got = squeeze(want), squeeze(got)
		}
		if comparable(want) != comparable(got) || wantCode != gotCode {
			t.Errorf("etcdctl %s\n etcd (exit %d):\n%s\n Cairn (exit %d):\n%s", x.args, wantCode, want, gotCode, got)
		}
	}
	leaseRound(t, cairn)
}

func columns(line string, which ...int) string {
	all := strings.Split(strings.TrimSpace(line), ", ")
	var out []string
	for _, i := range which {
		if i < len(all) {
			out = append(out, all[i])
		}
	}
	return strings.Join(out, ", ")
}

func squeeze(s string) string {
	return regexp.MustCompile(`[─ ]+`).ReplaceAllString(comparable(s), " ")
}

// leaseRound uses a lease by the id that the server picked.
func leaseRound(t *testing.T, s *harness.Server) {
	out, code := ctl(t, s, "", "lease", "grant", "1000")
	f := strings.Fields(out)
	if code != 0 || len(f) < 2 {
		t.Fatalf("lease grant: %d %s", code, out)
	}
	id := f[1]
	remaining := regexp.MustCompile(`remaining\(9[0-9]{2}s\)`)
	for _, x := range []struct{ args, want string }{
		{"put leased v --lease=" + id, "OK"},
		{"lease timetolive " + id + " --keys", "lease " + id + " granted with TTL(1000s), remaining(some s), attached keys([leased])"},
		{"lease revoke " + id, "lease " + id + " revoked"},
		{"get leased", ""},
		{"lease timetolive " + id, "lease " + id + " already expired"},
	} {
		out, code := ctl(t, s, "", strings.Fields(x.args)...)
		out = remaining.ReplaceAllString(out, "remaining(some s)")
		if code != 0 || strings.TrimSpace(out) != x.want {
			t.Errorf("etcdctl %s: exit %d, %q, want %q", x.args, code, out, x.want)
		}
	}
}
