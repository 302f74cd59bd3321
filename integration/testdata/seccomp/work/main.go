// Command work is a Go program's day.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Print("child")
		return
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("done")
}

func work() error {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { _ = make([]byte, 1<<20*i); runtime.Gosched(); time.Sleep(time.Millisecond) })
	}
	wg.Wait()
	runtime.GC()
	if err := os.WriteFile("/tmp/a", []byte("abc"), 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("/proc/self/exe", "child").Output(); err != nil || string(out) != "child" {
		return fmt.Errorf("child: %q: %w", out, err)
	}
	l, err := net.Listen("unix", "/tmp/socket")
	if err != nil {
		return err
	}
	go func() {
		c, _ := l.Accept()
		fmt.Fprintln(c, "hello")
	}()
	c, err := net.Dial("unix", "/tmp/socket")
	if err != nil {
		return err
	}
	_, err = bufio.NewReader(c).ReadString('\n')
	return err
}
