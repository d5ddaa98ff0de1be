// SPDX-License-Identifier: Apache-2.0

package bbolt

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"cairn/tests/harness"
)

const steps = 400

// imported starts Cairn on what cairnutl makes of a file.
func imported(t *testing.T, file string, flags ...string) *world {
	t.Helper()
	bin := cairnutl(t)
	return start(t, harness.Cairn, func(s *harness.Server) {
		run(t, bin, append([]string{"snapshot", "import", file, "--data-dir", s.DataDir()}, flags...)...)
	})
}

// exported is the file that cairnutl makes of a stopped member.
func exported(t *testing.T, s *harness.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "exported")
	run(t, cairnutl(t), "snapshot", "export", file, "--data-dir="+s.DataDir())
	return file
}

// restored starts etcd on what etcdutl makes of a file.
func restored(t *testing.T, file string, flags ...string) *world {
	t.Helper()
	bin := etcdutl(t)
	return start(t, harness.Etcd, func(s *harness.Server) {
		peer := fmt.Sprintf("http://127.0.0.1:%d", s.PeerPort)
		run(t, bin, append([]string{"snapshot", "restore", file, "--data-dir", s.DataDir(), "--name=default",
			"--initial-cluster=default=" + peer, "--initial-advertise-peer-urls=" + peer}, flags...)...)
	})
}

func checkFile(t *testing.T, path string) {
	t.Helper()
	db := open(t, path, 0, true)
	defer db.Close()
	check(t, db)
}

// TestImport: Cairn continues where an etcd has been, from a saved snapshot and from the file of a stopped server.
func TestImport(t *testing.T) {
	rng := seed(t)
	etcd := start(t, harness.Etcd, nil)
	play(t, rng, steps, etcd)
	saved := etcd.save()
	etcd.restart() // Its cache of compaction hashes is gone, as it is in Cairn.
	cairn := imported(t, saved)
	same(t, etcd, cairn)
	play(t, rng, steps, etcd, cairn)
	etcd.restart()
	cairn.restart()
	same(t, etcd, cairn)

	etcd.stop()
	again := imported(t, filepath.Join(etcd.s.DataDir(), "member", "snap", "db"), "--skip-hash-check")
	etcd.restart()
	same(t, etcd, again)
}

// TestExport: etcd's tools take what Cairn exports, and etcd continues there.
func TestExport(t *testing.T) {
	cairnutl(t)
	rng := seed(t)
	cairn := start(t, harness.Cairn, nil)
	play(t, rng, steps, cairn)
	revision := cairn.revision()
	runFails(t, "a member is running", cairnutl(t), "snapshot", "export", "x", "--data-dir", cairn.s.DataDir())
	cairn.stop()
	file := exported(t, cairn.s)

	var status struct {
		Revision int64  `json:"revision"`
		Version  string `json:"version"`
	}
	out := run(t, etcdutl(t), "snapshot", "status", file, "--write-out=json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status.Revision != revision || status.Version != "3.7.0" {
		t.Errorf("status is %+v, the revision %d", status, revision)
	}
	etcd := restored(t, file)
	cairn.restart()
	same(t, cairn, etcd)
	play(t, rng, steps, cairn, etcd)
	cairn.restart()
	etcd.restart()
	same(t, cairn, etcd)
	etcd.stop()
	checkFile(t, filepath.Join(etcd.s.DataDir(), "member", "snap", "db"))
}

// TestRoundTrip: etcd's file, taken in and given out, holds what it held, but for whose member it is.
func TestRoundTrip(t *testing.T) {
	cairnutl(t)
	rng := seed(t)
	etcd := start(t, harness.Etcd, nil)
	play(t, rng, steps, etcd)
	member := memberID(t, etcd)
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_NOSPACE}
	if _, err := pb.NewMaintenanceClient(etcd.conn).Alarm(etcd.context(), alarm); err != nil {
		t.Fatal(err)
	}
	saved := etcd.save()
	dir := filepath.Join(t.TempDir(), "data")
	run(t, cairnutl(t), "snapshot", "import", saved, "--data-dir", dir)
	file := filepath.Join(t.TempDir(), "exported")
	run(t, cairnutl(t), "snapshot", "export", file, "--data-dir", dir)
	checkFile(t, file)
	compareLines(t, contentOf(t, file).lines(), contentOf(t, saved).lines())
}

func memberID(t *testing.T, w *world) uint64 {
	t.Helper()
	r, err := pb.NewClusterClient(w.conn).MemberList(w.context(), &pb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Members[0].ID
}

// contentOf leaves out what belongs to a member and not to the data.
func contentOf(t *testing.T, path string) content {
	db := open(t, path, 0, true)
	defer db.Close()
	c := readAll(t, db)
	c["members"], c["members_removed"] = nil, nil
	for _, key := range []string{"consistent_index", "term", "confState"} {
		delete(c["meta"], key)
	}
	return c
}

// TestBump: a restore that raised the revision and marked everything before as compacted.
func TestBump(t *testing.T) {
	cairnutl(t)
	rng := seed(t)
	etcd := start(t, harness.Etcd, nil)
	play(t, rng, steps/2, etcd)
	revision := etcd.revision()
	bumped := restored(t, etcd.save(), "--bump-revision=1000", "--mark-compacted")
	if got := bumped.revision(); got != revision+1000 {
		t.Fatalf("the revision is %d, it was %d", got, revision)
	}
	bumped.stop()
	cairn := imported(t, filepath.Join(bumped.s.DataDir(), "member", "snap", "db"), "--skip-hash-check")
	bumped.restart()
	same(t, bumped, cairn)
	play(t, rng, steps/2, bumped, cairn)
	bumped.restart()
	cairn.restart()
	same(t, bumped, cairn)
}

// TestEmpty: both ways with nothing in it.
func TestEmpty(t *testing.T) {
	cairnutl(t)
	etcd := start(t, harness.Etcd, nil)
	cairn := imported(t, etcd.save())
	same(t, etcd, cairn)
	cairn.stop()
	etcd = restored(t, exported(t, cairn.s))
	cairn.restart()
	same(t, etcd, cairn)
}

// TestLogBehind: an export doesn't pass over entries that are only in the log.
func TestLogBehind(t *testing.T) {
	bin := cairnutl(t)
	cairn := start(t, harness.Cairn, nil)
	play(t, seed(t), 50, cairn)
	want := withoutHashes(cairn.see()) // Those of compactions are forgotten at the next start.
	if err := cairn.s.Kill9(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "exported")
	dir := "--data-dir=" + cairn.s.DataDir()
	runFails(t, "the log goes on to index", bin, "snapshot", "export", file, dir)
	if _, err := os.Stat(file); err == nil {
		t.Error("the refused file is there")
	}
	run(t, bin, "snapshot", "export", file, dir, "--without-log")
	cairn.conn.Close()
	cairn.conn = nil
	cairn.restart()
	cairn.stop()
	etcd := restored(t, exported(t, cairn.s))
	if got := withoutHashes(etcd.see()); !slices.Equal(got, want) {
		t.Error("etcd shows something else than what was acknowledged")
	}
	cairn.restart()
	same(t, cairn, etcd)
}

func withoutHashes(lines []string) []string {
	return slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "hash ") })
}

// TestRefused: what import does not take, and what it leaves behind then.
func TestRefused(t *testing.T) {
	bin := cairnutl(t)
	rng := seed(t)
	etcd := start(t, harness.Etcd, nil)
	play(t, rng, 20, etcd)
	saved := etcd.save()
	whole, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	try := func(text string, contents []byte, flags ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		runFails(t, text, bin, append([]string{"snapshot", "import", file, "--data-dir", data}, flags...)...)
		if left, _ := filepath.Glob(data + "*"); len(left) > 0 {
			t.Errorf("%q left %v", text, left)
		}
	}
	turned := append([]byte(nil), whole...)
	turned[5000] ^= 1
	try("snapshot missing hash but --skip-hash-check=false", whole[:len(whole)-32])
	try("its hash is not that of its contents", turned)
	try("no bbolt file", make([]byte, 8192), "--skip-hash-check")
	try("the file ends before", whole[:8192], "--skip-hash-check")

	if _, err := pb.NewAuthClient(etcd.conn).RoleAdd(etcd.context(), &pb.AuthRoleAddRequest{Name: "reader"}); err != nil {
		t.Fatal(err)
	}
	withRole, err := os.ReadFile(etcd.save())
	if err != nil {
		t.Fatal(err)
	}
	try("this version has no users and roles", withRole)

	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runFails(t, "not empty", bin, "snapshot", "import", saved, "--data-dir", full)
	runFails(t, "usage", bin, "snapshot", "import", saved)
	runFails(t, "usage", bin, "snapshot", "export", saved, "--data-dir", full, "--skip-hash-check")
	runFails(t, "no database", bin, "snapshot", "export", saved+"2", "--data-dir", full)
}

// TestManyRounds plays short histories back and forth: etcd, Cairn, etcd, Cairn.
func TestManyRounds(t *testing.T) {
	cairnutl(t)
	rng := seed(t)
	w := start(t, harness.Etcd, nil)
	for round := 0; round < harness.EnvInt("BBOLT_ROUNDS", 6)/2; round++ {
		play(t, rng, 30+rng.Intn(100), w)
		want := afterRestart(w)
		w = imported(t, w.save())
		compareSeen(t, want, w)
		play(t, rng, 30+rng.Intn(100), w)
		want = afterRestart(w)
		w.stop()
		w = restored(t, exported(t, w.s))
		compareSeen(t, want, w)
	}
}

func afterRestart(w *world) []string {
	w.restart()
	return w.see()
}

func compareSeen(t *testing.T, want []string, w *world) {
	t.Helper()
	got := w.see()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: %.200s\nwas %.200s", w.s.Kind, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s shows %d lines, it was %d", w.s.Kind, len(got), len(want))
	}
}
