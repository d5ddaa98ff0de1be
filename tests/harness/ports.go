// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Ports come from a fixed range below the kernel's ephemeral ports, so that an outgoing connection can't take one
// between the choice and the server's bind. A lock file per port keeps test processes that run at the same time
// apart; the kernel drops the lock when the process ends, however it ends.
const (
	portFirstDefault = 24000
	portLastDefault  = 24999
)

var portState struct {
	sync.Mutex
	next  int
	locks map[int]*os.File // Held until the port is released or the process ends.
}

func portRange() (int, int) {
	first, last := portFirstDefault, portLastDefault
	if a, b, ok := strings.Cut(os.Getenv("CAIRN_PORTS"), "-"); ok {
		if x, err := strconv.Atoi(a); err == nil {
			if y, err := strconv.Atoi(b); err == nil && y > x {
				first, last = x, y
			}
		}
	}
	return first, last
}

// FreePort returns a TCP port on 127.0.0.1 which nothing listens on and no other test process will be given.
func FreePort() (int, error) {
	portState.Lock()
	defer portState.Unlock()

	dir := filepath.Join(os.TempDir(), "cairn-test-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return 0, err
	}
	first, last := portRange()
	n := last - first + 1
	if portState.next == 0 {
		// Spread concurrent test processes over the range; the value needs no quality, only difference.
		portState.next = os.Getpid() * 37 % n
	}
	for i := 0; i < n; i++ {
		port := first + (portState.next+i)%n
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			return 0, err
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil || !bindable(port) {
			lock.Close()
			continue
		}
		portState.next = (portState.next + i + 1) % n
		if portState.locks == nil {
			portState.locks = map[int]*os.File{}
		}
		portState.locks[port] = lock
		return port, nil
	}
	return 0, fmt.Errorf("no free port in %d-%d", first, last)
}

// ReleasePort gives a port back.
func ReleasePort(port int) {
	portState.Lock()
	defer portState.Unlock()
	if lock := portState.locks[port]; lock != nil {
		lock.Close()
		delete(portState.locks, port)
	}
}

// bindable holds off the start of processes: one that is being started has all sockets of this one for a moment, and would
// keep the port.
func bindable(port int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// WaitPortFree waits until nothing listens on the port any more.
func WaitPortFree(port int, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if bindable(port) {
			return true
		}
	}
	return false
}
