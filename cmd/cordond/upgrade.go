package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
)

// How long an upgrade may take until everything stands still, and what it asks
// of the other program first.
const (
	upgradeTime = 30 * time.Second
	askTime     = 20 * time.Second
)

// handedOver names, in the environment of the next program, the descriptors of
// the control socket and of its lock.
const handedOver = "CORDOND_HANDED_OVER"

// upgrade goes on as another program, in this process: the kernel closes what is
// this one's own, and the keeper waits for who comes. It returns only an error,
// and then everything goes on as before.
func (d *daemon) upgrade(ctx context.Context, by, program string) error {
	if !d.upgrading.TryLock() {
		return errors.New("another upgrade is under way")
	}
	defer d.upgrading.Unlock()
	if d.config.Continuity.Grace == 0 {
		return errors.New("plugins end with the daemon: continuity.grace is 0s")
	}
	if err := d.fits(ctx, program); err != nil {
		return err
	}
	d.auditEvent("daemon-upgrading", by, "cordond "+version()+" goes on as "+program)
	err := d.stillAndExec(ctx, program)
	d.auditEvent("daemon-upgrade-failed", by, fmt.Sprintf("cordond %s goes on: %v", version(), err))
	return err
}

func (d *daemon) stillAndExec(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	if err := d.server.Pause(ctx); err != nil {
		return err
	}
	defer d.server.Unpause()
	if err := d.supervisor.Suspend(ctx); err != nil {
		return err
	}
	defer d.supervisor.Resume()
	listener, lock, err := d.socket.Handover()
	if err != nil {
		return err
	}
	env := append(os.Environ(), fmt.Sprintf("%s=%d,%d", handedOver, listener, lock))
	d.log.Info("upgrading", "program", program)
	err = syscall.Exec(program, os.Args, env) // #nosec G204 -- root named it, and it was looked at
	return errors.Join(fmt.Errorf("cannot execute %s: %w", program, err), unix.Close(listener), unix.Close(lock))
}

// fits says whether a program is one that can go on where this one stops: root's
// alone, and of the same forms of what is held and written.
func (d *daemon) fits(ctx context.Context, program string) error {
	if err := rootsAlone(program); err != nil {
		return fmt.Errorf("cannot use the program %s: %w", program, err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	args := []string{"can-succeed"}
	if d.options.explicit {
		args = append(args, "--config", d.options.configFile)
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...) // #nosec G204 -- root named it
	cmd.Stdout, cmd.Stderr = &limited{&out}, &limited{&complaint}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s cannot go on: %w: %s", program, err, strings.TrimSpace(complaint.String()))
	}
	var its succession
	if err := json.Unmarshal(out.Bytes(), &its); err != nil {
		return fmt.Errorf("%s does not say whether it can go on: %w", program, err)
	}
	if ours := thisSuccession(); its != ours {
		return fmt.Errorf("%s cannot go on: it is of the forms %+v, and this one of %+v", program, its, ours)
	}
	return nil
}

// rootsAlone says whether what a path leads to is root's, and nobody else can
// put anything in its place between the look at it and its use.
func rootsAlone(program string) error {
	if !filepath.IsAbs(program) || program != filepath.Clean(program) {
		return errors.New("expected an absolute path")
	}
	for at := program; ; at = filepath.Dir(at) {
		st, err := os.Lstat(at)
		if err != nil {
			return err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		sticky := st.IsDir() && st.Mode()&os.ModeSticky != 0 // what is root's there stays
		switch {
		case at == program && !st.Mode().IsRegular(), at != program && !st.IsDir():
			return fmt.Errorf("%s is a link, or no file; name the real path", at)
		case !ok || sys.Uid != 0 || st.Mode()&0o022 != 0 && !sticky:
			return fmt.Errorf("%s can be changed by others than root", at)
		case at == "/":
			return nil
		}
	}
}

// limited keeps the first of what a program says.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, 64<<10-l.b.Len()))])
	return len(p), nil
}

// succession is the versions that two programs must have alike for one to go on
// where the other stops.
type succession struct {
	Keeper int `json:"keeper"` // messages
	Book   int `json:"book"`
	State  int `json:"state"` // a later one could not be gone back from
}

func thisSuccession() succession {
	return succession{Keeper: namespaces.KeeperVersion, Book: launch.BookVersion, State: store.Schema}
}

// canSucceed is asked by a daemon that is to become this program.
func canSucceed(out io.Writer) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "can-succeed", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, _, err := loadConfig(file, cmd.Flags().Changed("config")); err != nil {
				return err
			}
			return json.NewEncoder(out).Encode(thisSuccession())
		},
	}
	cmd.Flags().StringVar(&file, "config", defaultConfig, "the configuration `file`")
	return cmd
}

// handed gives the descriptors that the program before this one left, and has
// nobody else find them.
func handed() (listener, lock int, ok bool) {
	text := os.Getenv(handedOver)
	if os.Unsetenv(handedOver) != nil || text == "" {
		return 0, 0, false
	}
	first, second, _ := strings.Cut(text, ",")
	listener, err := strconv.Atoi(first)
	lock, err2 := strconv.Atoi(second)
	return listener, lock, err == nil && err2 == nil && listener > 2 && lock > 2
}

// requestUpgrade has the running daemon become this program.
func requestUpgrade(o options, out io.Writer) error {
	c, _, err := loadConfig(o.configFile, o.explicit)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot tell which program this is: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), upgradeTime+2*askTime)
	defer cancel()
	client, err := control.Dial(ctx, c.Daemon.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	err = client.Call(ctx, control.MethodUpgrade, control.UpgradeParams{Program: program}, nil)
	var gone *control.Error
	if !errors.As(err, &gone) || gone.Code != ipc.CodePluginGone { // which is how it ends when all went well
		return errors.Join(err)
	}
	next, err := control.Dial(ctx, c.Daemon.Socket)
	if err != nil {
		return fmt.Errorf("the next cordond does not serve: %w", err)
	}
	defer func() { _ = next.Close() }()
	list, err := next.List(ctx)
	if err != nil {
		return fmt.Errorf("the next cordond does not answer: %w", err)
	}
	running := 0
	for _, s := range list {
		if s.State == control.Running {
			running++
		}
	}
	_, err = fmt.Fprintf(out, "cordond goes on as %s, %s; %d plugins run.\n", version(), program, running)
	return err
}
