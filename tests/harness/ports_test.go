// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"net"
	"os/exec"
	"sync"
	"testing"
)

// TestFreePortBesideStarts: a port that was found free can be bound, also while processes are being started.
func TestFreePortBesideStarts(t *testing.T) {
	var starts sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		starts.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					exec.Command("true").Run()
				}
			}
		})
	}
	for range 2000 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Error(err)
		} else {
			l.Close()
		}
		ReleasePort(port)
	}
	close(stop)
	starts.Wait()
}
