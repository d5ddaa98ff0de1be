// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestUnderThreadSanitizer puts a mixed load on a server built with ThreadSanitizer, which CAIRN_TSAN_BIN names, stops it
// in the middle and once more at rest, and fails for every report. tsan.supp says what is passed over and why.
func TestUnderThreadSanitizer(t *testing.T) {
	bin := os.Getenv("CAIRN_TSAN_BIN")
	if bin == "" {
		t.Skip("CAIRN_TSAN_BIN is not set: skipped what needs a build with ThreadSanitizer")
	}
	t.Setenv("CAIRN_BIN", bin)
	supp, err := filepath.Abs("tsan.supp")
	must(t, err)
	s := harness.NewForTest(t, harness.Cairn)
	s.Env = []string{"TSAN_OPTIONS=ignore_noninstrumented_modules=1 exitcode=66 history_size=4 suppressions=" + supp}
	must(t, s.StartReady())
	mixedLoad(t, s, 6*time.Second, true)
	must(t, s.StartReady())
	mixedLoad(t, s, 6*time.Second, false)
	_, err = s.Terminate()
	must(t, err)
	log, err := os.ReadFile(s.LogPath())
	must(t, err)
	reports := strings.Split(string(log), "==================\nWARNING: ThreadSanitizer")
	for i, r := range reports[1:] {
		if i == 5 {
			t.Errorf("and %d more", len(reports)-6)
			break
		}
		t.Errorf("WARNING: ThreadSanitizer%.4000s", r)
	}
}

// mixedLoad uses everything that is there from many clients at once. With stop the server is stopped under it.
func mixedLoad(t *testing.T, s *harness.Server, length time.Duration, stop bool) {
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var wg sync.WaitGroup
	for w := 0; w < 24; w++ {
		c := newClient(t, s)
		rng := rand.New(rand.NewPCG(1, uint64(w)))
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil {
				oneCall(ctx, c, s, rng)
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		client := http.Client{Timeout: time.Second}
		for ctx.Err() == nil {
			for _, path := range []string{"/metrics", "/health", "/readyz?verbose", "/version"} {
				if resp, err := client.Get(s.URL() + path); err == nil {
					resp.Body.Close()
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if stop {
		time.Sleep(length * 3 / 4)
		_, err := s.Terminate()
		cancel()
		must(t, err)
	}
	wg.Wait()
}

// oneCall makes a random call; errors are no matter here.
func oneCall(ctx context.Context, c *clientv3.Client, s *harness.Server, rng *rand.Rand) {
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	key := fmt.Sprintf("k%d", rng.IntN(200))
	switch n := rng.IntN(100); {
	case n < 35:
		c.Put(short, key, strings.Repeat("v", rng.IntN(2000)))
	case n < 55:
		c.Get(short, key)
	case n < 65:
		c.Get(short, "k", clientv3.WithPrefix(), clientv3.WithSerializable(), clientv3.WithLimit(rng.Int64N(300)))
	case n < 70:
		if stream, err := c.GetStream(short, "k", clientv3.WithPrefix()); err == nil {
			clientv3.GetStreamToGetResponse(stream)
		}
	case n < 80:
		c.Txn(short).If(clientv3.Compare(clientv3.Version(key), ">", 1)).Then(clientv3.OpDelete(key)).
			Else(clientv3.OpPut(key, "x"), clientv3.OpGet("k", clientv3.WithPrefix(), clientv3.WithCountOnly())).Commit()
	case n < 84:
		if l, err := c.Grant(short, 1000); err == nil {
			c.Put(short, key, "leased", clientv3.WithLease(l.ID))
			c.TimeToLive(short, l.ID, clientv3.WithAttachedKeys())
			c.Revoke(short, l.ID)
		}
	case n < 87:
		if got, err := c.Get(short, key); err == nil {
			c.Compact(short, got.Header.Revision-rng.Int64N(20))
		}
	case n < 90:
		c.HashKV(short, s.Addr(), 0)
		c.Status(short, s.Addr())
	case n < 91:
		c.Defragment(short, s.Addr())
	case n < 93:
		c.MemberList(short)
	case n < 97: // Deadlines that pass at every stage of a call.
		late, cancel := context.WithTimeout(short, time.Duration(rng.IntN(3000))*time.Microsecond)
		c.Put(late, key, "late")
		cancel()
	default:
		c.Delete(short, key, clientv3.WithPrevKV())
	}
}
