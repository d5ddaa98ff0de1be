// SPDX-License-Identifier: Apache-2.0

// Package harness starts, watches, kills and measures server processes for the tests, and holds the model of etcd's
// revisions and HashKV that the crash test checks against. It treats etcd and Cairn alike: both take etcd's flags.
//
// Rules that every user relies on:
//
//  1. A server started here dies with the test process, even when that is killed.
//  2. Nothing waits without a deadline, and no wait goes on after the server process has died.
//  3. What the server printed is kept in a file beside its data and shown when a test fails.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// ReadyLimit is how long a server may take until it answers; generous, since test machines are slow and shared.
const ReadyLimit = 60 * time.Second

// Kind tells the two servers apart where a test must.
type Kind string

const (
	Cairn Kind = "cairn"
	Etcd  Kind = "etcd"
)

// Options say how to start a server. Zero values are fine but for Bin and Dir.
type Options struct {
	Kind Kind
	Bin  string
	Dir  string   // Everything is below it: data and log.
	Args []string // Further flags, after the harness's own.
	Env  []string // Added to the process's environment.
}

// Server is one server process, or the place of one which is stopped at the moment.
type Server struct {
	Options
	ClientPort int
	PeerPort   int

	mu     sync.Mutex
	cmd    *exec.Cmd
	done   chan struct{}
	starts int
}

// New reserves ports and folders for a server without starting it.
func New(o Options) (*Server, error) {
	s := &Server{Options: o}
	var err error
	if s.ClientPort, err = FreePort(); err != nil {
		return nil, err
	}
	if s.PeerPort, err = FreePort(); err != nil {
		return nil, err
	}
	return s, os.MkdirAll(o.Dir, 0o755)
}

// Addr is the client address, host:port.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.ClientPort) }

// URL is the client address as etcd's flags write it.
func (s *Server) URL() string { return "http://" + s.Addr() }

// DataDir is what --data-dir names.
func (s *Server) DataDir() string { return filepath.Join(s.Dir, "data") }

// LogPath is the file that holds all the server printed, over all its starts.
func (s *Server) LogPath() string { return filepath.Join(s.Dir, "log") }

// Flags are the arguments that Start uses.
func (s *Server) Flags() []string {
	peer := fmt.Sprintf("http://127.0.0.1:%d", s.PeerPort)
	return append([]string{
		"--name=default",
		"--data-dir=" + s.DataDir(),
		"--listen-client-urls=" + s.URL(),
		"--advertise-client-urls=" + s.URL(),
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=default=" + peer,
	}, s.Args...)
}

// starter runs every fork on one thread which lives as long as the process: the kernel sends the parent-death
// signal when the *thread* that forked ends.
var starter = func() chan func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
}()

// Launch starts a command so that it dies with this process.
func Launch(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error, 1)
	starter <- func() { result <- cmd.Start() }
	return <-result
}

// Start starts the process and returns without waiting for it to be ready.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return errors.New("server is already running")
	}
	log, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.starts++
	fmt.Fprintf(log, "---- start %d ----\n", s.starts)
	cmd := exec.Command(s.Bin, s.Flags()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(CleanEnv(), s.Env...)
	if err := Launch(cmd); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	s.cmd, s.done = cmd, done
	return nil
}

// CleanEnv is the environment without variables that an etcd server would read or complain about.
func CleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ETCD_") {
			env = append(env, v)
		}
	}
	return env
}

// Pid is the process's id, 0 when it is not running.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Alive says whether the process runs.
func (s *Server) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Exited is closed when the current process has ended; nil when there is none.
func (s *Server) Exited() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// WaitReady waits until /health says the member can serve linearizable reads.
func (s *Server) WaitReady(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	last := errors.New("never asked")
	for time.Now().Before(deadline) {
		if !s.Alive() {
			return fmt.Errorf("%s ended before it was ready\n%s", s.Kind, s.LogTail(30))
		}
		resp, err := client.Get(s.URL() + "/health")
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK && bytes.Contains(body, []byte(`"health":"true"`)) {
				return nil
			}
			err = fmt.Errorf("%s: %s", resp.Status, body)
		}
		last = err
		time.Sleep(3 * time.Millisecond)
	}
	return fmt.Errorf("%s not ready after %v: %v\n%s", s.Kind, limit, last, s.LogTail(30))
}

// StartReady is Start followed by WaitReady.
func (s *Server) StartReady() error {
	if err := s.Start(); err != nil {
		return err
	}
	return s.WaitReady(ReadyLimit)
}

// signalAndReap sends a signal and waits for the end of the process.
func (s *Server) signalAndReap(sig syscall.Signal, limit time.Duration) (*os.ProcessState, error) {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.mu.Unlock()
	if cmd == nil {
		return nil, errors.New("server is not running")
	}
	select {
	case <-done:
	default:
		cmd.Process.Signal(sig)
	}
	var err error
	select {
	case <-done:
	case <-time.After(limit):
		err = fmt.Errorf("%s still ran %v after %v", s.Kind, limit, sig)
		cmd.Process.Kill()
		<-done
	}
	s.mu.Lock()
	s.cmd, s.done = nil, nil
	s.mu.Unlock()
	return cmd.ProcessState, err
}

// Terminate stops the server in good order and says how it ended.
func (s *Server) Terminate() (*os.ProcessState, error) {
	return s.signalAndReap(syscall.SIGTERM, 30*time.Second)
}

// Kill9 kills the server; it gets no chance to write anything.
func (s *Server) Kill9() error {
	if !s.Alive() {
		s.signalAndReap(syscall.SIGKILL, 10*time.Second)
		return fmt.Errorf("%s had ended before it was killed\n%s", s.Kind, s.LogTail(30))
	}
	_, err := s.signalAndReap(syscall.SIGKILL, 10*time.Second)
	return err
}

// Close ends the process if there is one and gives the ports back. It never fails; the server can't be started again.
func (s *Server) Close() {
	s.signalAndReap(syscall.SIGKILL, 10*time.Second)
	ReleasePort(s.ClientPort)
	ReleasePort(s.PeerPort)
}

// LogTail returns the last lines that the server printed.
func (s *Server) LogTail(lines int) string {
	data, err := os.ReadFile(s.LogPath())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	for i, line := range all {
		if len(line) > 600 {
			all[i] = line[:600] + " ..."
		}
	}
	return fmt.Sprintf("last lines of %s:\n%s", s.Kind, strings.Join(all, "\n"))
}

// Dial opens one gRPC connection that takes responses of any size and waits for a server that is starting.
func (s *Server) Dial(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return Dial(s.Addr(), opts...)
}

// Dial opens one plaintext gRPC connection.
func Dial(addr string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1), grpc.MaxCallSendMsgSize(1<<31-1)),
	}, opts...)
	return grpc.NewClient("passthrough:///"+addr, opts...)
}

// StartForTest starts a server in a fresh folder, waits for it and stops it at the end of the test.
func StartForTest(t testing.TB, kind Kind, args ...string) *Server {
	t.Helper()
	s := NewForTest(t, kind, args...)
	if err := s.StartReady(); err != nil {
		t.Fatal(err)
	}
	return s
}

// NewForTest is StartForTest without the start.
func NewForTest(t testing.TB, kind Kind, args ...string) *Server {
	t.Helper()
	binary := CairnBin
	if kind == Etcd {
		binary = EtcdBin
	}
	bin := binary(t)
	dir, err := os.MkdirTemp("", "cairn-test-"+string(kind)+"-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Kind: kind, Bin: bin, Dir: dir, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		died := s.Pid() != 0 && !s.Alive()
		s.Close()
		if t.Failed() && died {
			t.Logf("%s had ended by itself; %s", kind, s.LogTail(40))
		}
		if t.Failed() && os.Getenv("CAIRN_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return s
}

// Context returns a context that ends after the limit or with the test.
func Context(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}
