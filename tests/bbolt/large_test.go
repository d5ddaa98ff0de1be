// SPDX-License-Identifier: Apache-2.0

package bbolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"cairn/tests/harness"
)

// TestLarge prints what an import and an export cost: BBOLT_LARGE=1000000 keys of BBOLT_VALUE=256 bytes, as if put in
// random order, the last BBOLT_AGAIN=0 of them once more.
func TestLarge(t *testing.T) {
	n := harness.EnvInt("BBOLT_LARGE", 0)
	if n == 0 {
		t.Skip("BBOLT_LARGE is not set: skipped the measurement")
	}
	bin, dir := cairnutl(t), t.TempDir()
	file, data, out := filepath.Join(dir, "db"), filepath.Join(dir, "data"), filepath.Join(dir, "out")
	makeLarge(t, file, n)
	measure(t, "import", file, bin, "snapshot", "import", file, "--data-dir", data, "--skip-hash-check")
	measure(t, "export", file, bin, "snapshot", "export", out, "--data-dir", data)
	measure(t, "import again", out, bin, "snapshot", "import", out, "--data-dir", data+"2")
	if harness.EnvInt("BBOLT_COMPARE", 0) > 0 {
		checkFile(t, out)
		got, want := contentOf(t, out), contentOf(t, file)
		compareLines(t, content{"key": got["key"]}.lines(), content{"key": want["key"]}.lines())
	}
}

func makeLarge(t *testing.T, path string, n int) {
	t.Helper()
	db := open(t, path, 4096, false)
	defer db.Close()
	rng, size := rand.New(rand.NewSource(1)), harness.EnvInt("BBOLT_VALUE", 256)
	order := rng.Perm(n)
	order = append(order, order[n-min(n, harness.EnvInt("BBOLT_AGAIN", 0)):]...)
	versions := map[int][2]int64{}
	for i := 0; i < len(order); {
		err := db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"key", "meta"} {
				if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			b := tx.Bucket([]byte("key"))
			b.FillPercent = 0.9
			for end := min(len(order), i+10_000); i < end; i++ {
				if err := putLarge(b, rng, int64(i)+2, order[i], size, versions); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func putLarge(b *bolt.Bucket, rng *rand.Rand, rev int64, number, size int, versions map[int][2]int64) error {
	v := versions[number]
	if v[1] == 0 {
		v[0] = rev
	}
	v[1]++
	versions[number] = v
	kv := &mvccpb.KeyValue{Key: []byte(fmt.Sprintf("/registry/pods/default/%08d", number)), CreateRevision: v[0],
		ModRevision: rev, Version: v[1], Value: []byte(randomBytes(rng, size))}
	value, err := proto.Marshal(kv)
	if err != nil {
		return err
	}
	key := make([]byte, 17)
	binary.BigEndian.PutUint64(key, uint64(rev))
	key[8] = '_'
	return b.Put(key, value)
}

var errRunning = errors.New("running")

func measure(t *testing.T, what, file, bin string, args ...string) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &text, &text
	began := time.Now()
	if err := harness.Launch(cmd); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	resident := int64(0)
	for err = errRunning; err == errRunning; {
		select {
		case err = <-done:
		case <-time.After(5 * time.Millisecond):
			if m, err := harness.MemoryOf(cmd.Process.Pid); err == nil {
				resident = max(resident, m.RSSPeak)
			}
		}
	}
	if err != nil {
		t.Fatalf("%v: %s", err, text.Bytes())
	}
	took := time.Since(began)
	t.Logf("%s: file of %d MiB, %.1f s, %.0f MiB/s, %.1f s of CPU, %d MiB resident", what, info.Size()>>20, took.Seconds(),
		float64(info.Size())/(1<<20)/took.Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		resident>>20)
}
