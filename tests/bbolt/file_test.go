// SPDX-License-Identifier: Apache-2.0

// Package bbolt compares Cairn's reader and writer of bbolt files, and what cairnutl makes of them, with bbolt and etcd.
package bbolt

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"cairn/tests/harness"
)

// content is what a file holds: bucket -> key -> value.
type content map[string]map[string]string

func tool(t *testing.T) string {
	t.Helper()
	path := os.Getenv("BBOLT_TOOL")
	if path == "" {
		path = "../../build/release/tests/bbolt/tool/bbolt_tool"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no tool: build the project, or name it in BBOLT_TOOL: %v", err)
	}
	return path
}

func seed(t *testing.T) *rand.Rand {
	n := int64(harness.EnvInt("CAIRN_SEED", int(time.Now().UnixNano()%1e9)))
	t.Logf("CAIRN_SEED=%d", n)
	return rand.New(rand.NewSource(n))
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// lines is the content in the tool's form.
func (c content) lines() []byte {
	var out bytes.Buffer
	for _, name := range sortedKeys(c) {
		fmt.Fprintf(&out, "bucket %x\n", name)
		for _, key := range sortedKeys(c[name]) {
			fmt.Fprintf(&out, "item %x %x\n", key, c[name][key])
		}
	}
	return out.Bytes()
}

func randomBytes(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	rng.Read(b)
	return string(b)
}

// size draws lengths of which most are small and few are huge.
func size(rng *rand.Rand, limit int) int {
	n := 1 << rng.Intn(20)
	if rng.Intn(3) > 0 {
		n = 64
	}
	return min(rng.Intn(n+1), limit)
}

func randomItems(rng *rand.Rand, n int) map[string]string {
	items := map[string]string{}
	keyLimit, valueLimit := 40, 3_000
	if n < 100 {
		valueLimit = 300_000
	}
	if n < 1000 && rng.Intn(4) == 0 {
		keyLimit = bolt.MaxKeySize // A branch page holds but a few of these.
	}
	for i := 0; i < n; i++ {
		key := randomBytes(rng, 1+size(rng, keyLimit-1))
		items[key] = randomBytes(rng, size(rng, valueLimit))
	}
	return items
}

func randomContent(rng *rand.Rand) content {
	c := content{}
	for i := rng.Intn(12); i >= 0; i-- {
		n := []int{0, 1, 3, 30, 400, 3000}[rng.Intn(6)]
		c[randomName(rng)] = randomItems(rng, n)
	}
	return c
}

func randomName(rng *rand.Rand) string {
	const letters = "abcdefghijklmnopqrstuvwxyz_"
	b := make([]byte, 1+rng.Intn(20))
	for i := range b {
		b[i] = letters[rng.Intn(len(letters))]
	}
	return string(b)
}

func open(t *testing.T, path string, pageSize int, readOnly bool) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize: pageSize, ReadOnly: readOnly, NoSync: true, NoGrowSync: true, NoFreelistSync: true,
		FreelistType: bolt.FreelistMapType, PreLoadFreelist: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func check(t *testing.T, db *bolt.DB) {
	t.Helper()
	err := db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt's check: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, db *bolt.DB) content {
	t.Helper()
	c := content{}
	err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			c[string(name)] = map[string]string{}
			return b.ForEach(func(k, v []byte) error {
				c[string(name)][string(k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// change removes and adds items, so that pages split, merge and become free.
func change(t *testing.T, rng *rand.Rand, db *bolt.DB, c content) {
	t.Helper()
	err := db.Update(func(tx *bolt.Tx) error {
		for _, name := range sortedKeys(c) {
			b := tx.Bucket([]byte(name))
			part := rng.Intn(5)
			for _, key := range sortedKeys(c[name]) {
				if rng.Intn(4) >= part {
					continue
				}
				delete(c[name], key)
				if err := b.Delete([]byte(key)); err != nil {
					return err
				}
			}
			for key, value := range randomItems(rng, rng.Intn(200)) {
				c[name][key] = value
				if err := b.Put([]byte(key), []byte(value)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, rng *rand.Rand, path string, pageSize int, c content) *bolt.DB {
	t.Helper()
	db := open(t, path, pageSize, false)
	err := db.Update(func(tx *bolt.Tx) error {
		for _, name := range sortedKeys(c) {
			b, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for key, value := range c[name] {
				if err := b.Put([]byte(key), []byte(value)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

var pageSizes = []int{512, 1024, 4096, 4096, 4096, 16384, 65536}

func compareLines(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	a, b := bufio.NewScanner(bytes.NewReader(got)), bufio.NewScanner(bytes.NewReader(want))
	a.Buffer(nil, 1<<26)
	b.Buffer(nil, 1<<26)
	for n := 1; ; n++ {
		moreA, moreB := a.Scan(), b.Scan()
		if a.Text() != b.Text() || moreA != moreB {
			t.Fatalf("line %d: got %.80q, want %.80q", n, a.Text(), b.Text())
		}
	}
}

// TestRead: what bbolt has written, over several transactions, is read back by us.
func TestRead(t *testing.T) {
	bin, rng := tool(t), seed(t)
	for round := 0; round < harness.EnvInt("BBOLT_ROUNDS", 25); round++ {
		path := filepath.Join(t.TempDir(), "db")
		c := randomContent(rng)
		db := create(t, rng, path, pageSizes[rng.Intn(len(pageSizes))], c)
		for i := rng.Intn(4); i > 0; i-- {
			change(t, rng, db, c)
		}
		db.Close()
		got, err := exec.Command(bin, "dump", path).Output()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		compareLines(t, got, c.lines())
	}
}

// TestWrite: what we write passes bbolt's check, holds what was put in, and can be changed by bbolt.
func TestWrite(t *testing.T) {
	bin, rng := tool(t), seed(t)
	for round := 0; round < harness.EnvInt("BBOLT_ROUNDS", 25); round++ {
		path := filepath.Join(t.TempDir(), "db")
		c, pageSize := randomContent(rng), pageSizes[rng.Intn(len(pageSizes))]
		load(t, bin, path, pageSize, bytes.NewReader(c.lines()))
		if info, err := os.Stat(path); err != nil || info.Size() < 4096 {
			continue // bbolt itself opens no file that is shorter, whatever its pages.
		}
		db := open(t, path, 0, false)
		if got := db.Info().PageSize; got != pageSize {
			t.Fatalf("page size is %d, not %d", got, pageSize)
		}
		check(t, db)
		compareLines(t, readAll(t, db).lines(), c.lines())
		for i := 0; i < 3; i++ {
			change(t, rng, db, c)
			check(t, db)
		}
		compareLines(t, readAll(t, db).lines(), c.lines())
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("round %d, pages of %d", round, pageSize)
		}
	}
}

func load(t *testing.T, bin, path string, pageSize int, in io.Reader) {
	t.Helper()
	cmd := exec.Command(bin, "load", path, fmt.Sprint(pageSize))
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("load: %v: %s", err, out)
	}
}

// TestWriteFill: the writer leaves little of its pages empty, and an inline bucket where bbolt would.
func TestWriteFill(t *testing.T) {
	bin := tool(t)
	path := filepath.Join(t.TempDir(), "db")
	// A fourth of a page, its head and the item's included, is the most that bbolt has inline.
	c := content{"key": {}, "small": {"a": "b"}, "empty": {}, "most": {"k": strings.Repeat("v", 1024-33)},
		"more": {"k": strings.Repeat("v", 1024-32)}}
	total := 0
	for i := 0; i < 50_000; i++ {
		key, value := fmt.Sprintf("%017d", i), strings.Repeat("v", i%500)
		c["key"][key] = value
		total += 16 + len(key) + len(value)
	}
	load(t, bin, path, 4096, bytes.NewReader(c.lines()))
	db := open(t, path, 0, true)
	defer db.Close()
	check(t, db)
	info, _ := os.Stat(path)
	if fill := float64(total) / float64(info.Size()); fill < 0.9 {
		t.Errorf("only %.2f of the file is items", fill)
	}
	db.View(func(tx *bolt.Tx) error {
		for name, want := range map[string]int{"key": 0, "small": 1, "empty": 1, "most": 1, "more": 0} {
			if got := tx.Bucket([]byte(name)).Stats().InlineBucketN; got != want {
				t.Errorf("bucket %s: %d inline, want %d", name, got, want)
			}
		}
		return nil
	})
}

// TestWriteOrder: what is out of order, or too long, is refused.
func TestWriteOrder(t *testing.T) {
	bin := tool(t)
	long := hex.EncodeToString(bytes.Repeat([]byte{'k'}, bolt.MaxKeySize+1))
	for _, lines := range []string{
		"bucket 62\nbucket 61\n", "bucket 61\nbucket 61\n", "bucket 61\nitem 62 00\nitem 61 00\n",
		"bucket 61\nitem 62 00\nitem 62 00\n", "bucket 61\nitem  00\n", "bucket 61\nitem " + long + " 00\n",
	} {
		cmd := exec.Command(bin, "load", filepath.Join(t.TempDir(), "db"), "4096")
		cmd.Stdin = strings.NewReader(lines)
		if err := cmd.Run(); err == nil {
			t.Errorf("accepted: %.40q", lines)
		}
	}
}
