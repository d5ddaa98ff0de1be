// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Whose socket is at the other end of a connection on this machine? The kernel's socket monitoring (sock_diag(7))
// gives a socket's inode by its addresses, and /proc says which process has that inode open. The text file
// /proc/net/tcp would say the same, but takes two milliseconds to read on a machine without any connection.

const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20

	diagHeaderBytes  = 16 // struct nlmsghdr
	diagRequestBytes = 56 // struct inet_diag_req_v2
	diagAnswerBytes  = 72 // struct inet_diag_msg
	diagInodeAt      = 68 // In that.
)

// socketInode finds the inode of the TCP socket whose own address is local and whose other end is remote, both IPv4.
// 0 when there is none.
func socketInode(local, remote *net.TCPAddr) uint32 {
	s, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return 0
	}
	defer syscall.Close(s)
	ask := diagRequest(local, remote)
	if syscall.Sendto(s, ask, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}) != nil {
		return 0
	}
	answer := make([]byte, 4096)
	count, _, err := syscall.Recvfrom(s, answer, 0)
	if err != nil || count < diagHeaderBytes+diagAnswerBytes ||
		binary.NativeEndian.Uint16(answer[4:]) != sockDiagByFamily {
		return 0 // Most likely an error message: no such socket.
	}
	return binary.NativeEndian.Uint32(answer[diagHeaderBytes+diagInodeAt:])
}

// diagRequest asks for exactly one socket.
func diagRequest(local, remote *net.TCPAddr) []byte {
	b := make([]byte, diagHeaderBytes+diagRequestBytes)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], syscall.NLM_F_REQUEST)
	r := b[diagHeaderBytes:]
	r[0], r[1] = syscall.AF_INET, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // In any state.
	binary.BigEndian.PutUint16(r[8:], uint16(local.Port))
	binary.BigEndian.PutUint16(r[10:], uint16(remote.Port))
	copy(r[12:16], local.IP.To4())
	copy(r[28:32], remote.IP.To4())
	binary.NativeEndian.PutUint64(r[48:], ^uint64(0)) // With any cookie.
	return b
}

// ownsSocket says whether a process has the socket with this inode open.
func ownsSocket(pid int, inode uint32) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	file, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer file.Close()
	names, _ := file.Readdirnames(-1)
	want := fmt.Sprintf("socket:[%d]", inode)
	for i := len(names) - 1; i >= 0; i-- { // A new connection tends to have a high number.
		if target, err := os.Readlink(dir + names[i]); err == nil && target == want {
			return true
		}
	}
	return false
}
