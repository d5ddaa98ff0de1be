// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"
)

// startup is what a server that should refuse to start did.
type startup struct {
	code    int
	verdict string // The line that says why.
	out     string
}

// tryStart runs a server with arguments and environment in an empty folder.
func tryStart(t *testing.T, bin string, args, env []string, files map[string]string) startup {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	cmd.Env = append(harness.CleanEnv(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		return startup{code: -1, verdict: "it started", out: errs.String()}
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return startup{cmd.ProcessState.ExitCode(), verdict(errs.String()), out.String() + errs.String()}
}

// verdict finds the reason: the first line when it is plain text, else the error of the last log line, or its message
// when it has none.
func verdict(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if !strings.HasPrefix(lines[0], "{") {
		return lines[0]
	}
	var entry struct{ Msg, Error string }
	for i := len(lines) - 1; i >= 0; i-- {
		if json.Unmarshal([]byte(lines[i]), &entry) == nil {
			if entry.Error == "" {
				return entry.Msg
			}
			return entry.Error
		}
	}
	return text
}

// TestWrongFlags gives both servers the same wrong arguments. The exit code and the message must be the same.
func TestWrongFlags(t *testing.T) {
	etcd, cairn := harness.EtcdBin(t), harness.CairnBin(t)
	for _, port := range []int{2379, 2380} { // etcd listens before it looks at some flags.
		if !harness.WaitPortFree(port, 5*time.Second) {
			t.Fatalf("another program has the default port %d, which etcd listens on here", port)
		}
	}
	a := func(args ...string) []string { return args }
	for _, x := range []struct {
		args, env []string
		files     map[string]string
	}{
		{args: a("--nope")}, {args: a("-nope")}, {args: a("--nope=1")}, {args: a("--=x")}, {args: a("---name=x")},
		{args: a("--name")}, {args: a("extra")}, {args: a("--name=x", "extra")}, {args: a("-")},
		{args: a("--client-cert-auth", "true")}, {args: a("--force-new-cluster=maybe")},
		{args: a("--heartbeat-interval=x")}, {args: a("--heartbeat-interval=")}, {args: a("--heartbeat-interval=-1")},
		{args: a("--heartbeat-interval=0")}, {args: a("--election-timeout=10")}, {args: a("--election-timeout=999999")},
		{args: a("--election-timeout=0")},
		{args: a("--snapshot-count=")}, {args: a("--snapshot-count=-1")}, {args: a("--max-txn-ops=-1")},
		{args: a("--max-txn-ops=99999999999999999999")}, {args: a("--quota-backend-bytes=abc")},
		{args: a("--quota-backend-bytes=1e9")}, {args: a("--corrupt-check-time=5")}, {args: a("--corrupt-check-time=x")},
		{args: a("--listen-client-urls=foo")}, {args: a("--listen-client-urls=http://localhost")},
		{args: a("--listen-client-urls=ftp://127.0.0.1:1")}, {args: a("--listen-client-urls=http://127.0.0.1:1/path")},
		{args: a("--listen-client-urls=http://example.com:2379")}, {args: a("--listen-client-urls=")},
		{args: a("--listen-peer-urls=http://127.0.0.1:x")}, {args: a("--advertise-client-urls=bad")},
		{args: a("--initial-cluster=a=http://127.0.0.1:1")}, {args: a("--initial-cluster-state=foo")},
		{args: a("--initial-cluster=a")}, {args: a("--initial-cluster=,")},
		{args: a("--initial-advertise-peer-urls=http://127.0.0.1:24999")},
		{args: a("--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
			"--initial-cluster=default=http://127.0.0.1:1,default=http://127.0.0.1:3")},
		{args: a("--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
			"--initial-cluster=default=http://127.0.0.1:1")},
		{args: a("--initial-advertise-peer-urls=http://127.0.0.1:1",
			"--initial-cluster=default=http://127.0.0.1:1,default=http://127.0.0.1:1")},
		{args: a("--initial-advertise-peer-urls=http://127.0.0.1:1",
			"--initial-cluster=default=http://127.0.0.1:1,b=http://127.0.0.1:1")},
		{args: a("--initial-cluster-state=existing")},
		{args: a("--initial-cluster-state=existing", "--initial-cluster=a=http://127.0.0.1:1")},
		{args: a("--initial-cluster-state=existing",
			"--initial-cluster=default=http://127.0.0.1:1,b=http://127.0.0.1:1")},
		{args: a("--initial-cluster-state=existing",
			"--initial-cluster=default=http://127.0.0.1:1,b=http://127.0.0.1:2")},
		{args: a("--listen-client-urls=http://127.0.0.1:24998")},
		{args: a("--auto-compaction-mode=foo")}, {args: a("--auto-compaction-retention=x")},
		{args: a("--data-dir=/dev/null/x")}, {args: a("--data-dir=/proc/a/b")},
		{args: a("--data-dir=c"), files: map[string]string{"c": ""}}, {args: a("--config-file=/nope")}, {args: a("--discovery=x")},
		{args: a("--discovery-fallback=proxy")}, {args: a("--v2-deprecation=foo")},
		{args: a("--feature-gates=Foo=true")}, {args: a("--feature-gates=CompactHashCheck=maybe")},
		{args: a("--cipher-suites=foo")}, {args: a("--tls-min-version=TLS9")}, {args: a("--log-format=xml")},
		{args: a("--cipher-suites=")}, {args: a("--cipher-suites=TLS_AES_128_GCM_SHA256,")},
		{args: a("--log-outputs=")}, {args: a("--log-outputs=/dev/null/x")}, {args: a("--logger=foo")},
		{args: a("--auth-token=foo")}, {args: a("--bcrypt-cost=x")}, {args: a("--max-learners=-1")},
		{args: a("--wal-dir=/dev/null/y")}, {args: a("--cert-file=/nope", "--key-file=/nope",
			"--listen-client-urls=https://127.0.0.1:24997", "--advertise-client-urls=https://127.0.0.1:24997")},
		{args: a("--name=x"), env: a("ETCD_NAME=y")}, {env: a("ETCD_HEARTBEAT_INTERVAL=x")},
		{env: a("ETCD_CLIENT_CERT_AUTH=maybe")}, {env: a("ETCD_LISTEN_CLIENT_URLS=foo")},
		{args: a("--config-file=c"), files: map[string]string{"c": "name: [\n"}},
		{args: a("--config-file=c"), files: map[string]string{"c": "heartbeat-interval: abc\n"}},
		{args: a("--config-file=c"), files: map[string]string{"c": "listen-client-urls: foo\n"}},
		{args: a("--config-file=c"), files: map[string]string{"c": "heartbeat-interval: 500\nelection-timeout: 100\n"}},
		{args: a("--config-file=c"), files: map[string]string{"c": "{\"name\": 5}"}},
	} {
		want, got := tryStart(t, etcd, x.args, x.env, x.files), tryStart(t, cairn, x.args, x.env, x.files)
		if want.code == -1 {
			t.Errorf("%q: etcd starts with it, so it has no place here", x.args)
		}
		// What isn't there yet may say so, as long as it doesn't start without it.
		if got.code > 0 && strings.Contains(got.verdict, "not supported by Cairn") {
			t.Logf("%q: %s", x.args, got.verdict)
			continue
		}
		// etcd panics where it should say something: the text of a panic is no contract.
		panics := strings.Contains(want.out, "goroutine 1 [running]")
		if panics && got.code > 0 {
			continue
		}
		if want.code != got.code || neutral(want.verdict) != neutral(got.verdict) {
			t.Errorf("%q %q %v\n etcd:  exit %d, %s\n Cairn: exit %d, %s\n%.600s", x.args, x.env, x.files, want.code,
				want.verdict, got.code, got.verdict, got.out)
		}
	}
}

// TestRefusalLeavesNothing checks that flags that no cluster can begin with are refused before anything is made.
func TestRefusalLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := tryStart(t, harness.CairnBin(t), []string{"--data-dir=" + dir + "/data", "--wal-dir=" + dir + "/wal",
		"--initial-cluster=a=http://127.0.0.1:1"}, nil, nil)
	if want := `couldn't find local name "default" in the initial cluster configuration`; s.code != 1 || s.verdict != want {
		t.Errorf("exit %d, %s\n%s", s.code, s.verdict, s.out)
	}
	names, err := os.ReadDir(dir)
	must(t, err)
	for _, n := range names {
		t.Errorf("it made %s", n.Name())
	}
}

// neutral takes the program's own name out of a message.
func neutral(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "cairn", "X"), "etcd", "X")
}

// TestVersionAndHelp checks what scripts look at.
func TestVersionAndHelp(t *testing.T) {
	bin := harness.CairnBin(t)
	for _, flag := range []string{"--version", "-version"} {
		v := tryStart(t, bin, []string{flag}, nil, nil)
		lines := strings.Split(v.out, "\n")
		if v.code != 0 || !strings.HasPrefix(lines[0], "etcd Version: 3.7.1") {
			t.Errorf("%s: exit %d\n%s", flag, v.code, v.out)
		}
		for _, start := range []string{"Git SHA: ", "Go Version: ", "Go OS/Arch: "} {
			if !strings.Contains(v.out, "\n"+start) {
				t.Errorf("%s has no line %q:\n%s", flag, start, v.out)
			}
		}
		if !strings.Contains(strings.ToLower(v.out), "cairn") {
			t.Errorf("%s doesn't name Cairn's own version:\n%s", flag, v.out)
		}
	}
	for _, flag := range []string{"-h", "--help", "-help"} {
		h := tryStart(t, bin, []string{flag}, nil, nil)
		if h.code != 0 || !strings.Contains(h.out, "--listen-client-urls") || !strings.Contains(h.out, "--data-dir") {
			t.Errorf("%s: exit %d\n%.500s", flag, h.code, h.out)
		}
	}
}

// TestOldFlagNames starts a server with names that etcd 3.7 dropped and that deployed manifests still carry.
func TestOldFlagNames(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn, "--experimental-initial-corrupt-check=true",
		"--experimental-watch-progress-notify-interval=5s")
	log := s.LogTail(1000)
	if !strings.Contains(log, "experimental-initial-corrupt-check") {
		t.Error("the old name was taken without a word in the log")
	}
}

// TestConfigSources checks where settings come from: environment, file, and the file over the flags.
func TestConfigSources(t *testing.T) {
	cairn := harness.CairnBin(t)
	start := func(name string, env []string, config string) {
		t.Helper()
		s := harness.NewForTest(t, harness.Cairn)
		s.Env = env
		if config != "" {
			file := filepath.Join(t.TempDir(), "config.yml")
			var lines []string
			for _, f := range s.Flags() {
				key, value, _ := strings.Cut(strings.TrimPrefix(f, "--"), "=")
				if key == "name" || key == "initial-cluster" {
					continue
				}
				lines = append(lines, key+": "+value)
			}
			peer := "http://127.0.0.1:" + strings.TrimPrefix(s.Flags()[4], "--listen-peer-urls=http://127.0.0.1:")
			lines = append(lines, "initial-cluster: "+name+"="+peer, config)
			must(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
			s.Args = []string{"--config-file=" + file}
		}
		must(t, s.StartReady())
		m, err := newClient(t, s).MemberList(harness.Context(t, time.Minute))
		must(t, err)
		if m.Members[0].Name != name {
			t.Errorf("the member is named %q, want %q", m.Members[0].Name, name)
		}
	}
	_ = cairn
	start("default", []string{"ETCD_MAX_TXN_OPS=64", "ETCD_UNKNOWN_THING=1"}, "")
	// A configuration file makes the server pass over all flags.
	start("from-file", nil, "name: from-file")
}
