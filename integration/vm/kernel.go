package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// image is one kernel, ready to boot.
type image struct {
	release string // "6.1.0-56-cloud-amd64"
	vmlinuz string
	modules string // the directory of those that the guest loads
}

// wantedModules are those that the guest loads: the loop device, for a file
// system on a disk, and a network interface that a plugin must not see.
// Everything else that the suite needs is built in.
var wantedModules = []string{"loop", "dummy"}

var imagePackage = regexp.MustCompile(`linux-image-[0-9][0-9a-z.+-]*-cloud-amd64`)

// command runs under ctx and dies with this program.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", strings.Join(cmd.Args, " "), err)
	}
	return out, nil
}

// fetchKernel gets the newest kernel of a series from the host's own package
// archive, unless it is there. The archive's signatures are apt's to check.
func fetchKernel(ctx context.Context, dir, series string) (*image, error) {
	meta, known := kernels[series]
	if !known {
		return nil, fmt.Errorf("cannot boot kernel %q: want 6.1 or 6.12", series)
	}
	if k, err := keptKernel(dir, series); err == nil {
		return k, nil
	}
	pkg, err := newest(ctx, meta)
	if err != nil {
		return nil, err
	}
	say("%s: fetching %s", series, pkg)
	into := filepath.Join(dir, "kernel-"+series)
	if err := errors.Join(os.RemoveAll(into), os.MkdirAll(into, 0o755)); err != nil {
		return nil, err
	}
	get := command(ctx, "apt-get", "download", "-qq", pkg)
	get.Dir = into
	if _, err := output(get); err != nil {
		return nil, err
	}
	debs, _ := filepath.Glob(into + "/*.deb")
	if len(debs) != 1 {
		return nil, fmt.Errorf("cannot find the package that apt-get downloaded: %q", debs)
	}
	if err := extract(ctx, debs[0], into); err != nil {
		return nil, fmt.Errorf("cannot extract %s: %w", debs[0], err)
	}
	// The release is written last: it says that the rest is whole.
	whole := strings.TrimPrefix(pkg, "linux-image-") + "\n" + keptAs()
	if err := errors.Join(os.Remove(debs[0]), os.WriteFile(into+"/release", []byte(whole), 0o600)); err != nil {
		return nil, err
	}
	return keptKernel(dir, series)
}

// keptAs is how a kernel's files are kept.
func keptAs() string { return "modules/ " + strings.Join(wantedModules, " ") }

func keptKernel(dir, series string) (*image, error) {
	dir = filepath.Join(dir, "kernel-"+series)
	whole, err := os.ReadFile(dir + "/release")
	if err != nil {
		return nil, err
	}
	release, modules, _ := strings.Cut(string(whole), "\n")
	if modules != keptAs() {
		return nil, errors.New("it was kept for other modules")
	}
	return &image{release: release, vmlinuz: dir + "/vmlinuz", modules: dir + "/modules"}, nil
}

// newest is the package that the series' package depends on. The package lists
// are brought up to date only if they do not know it.
func newest(ctx context.Context, meta string) (string, error) {
	for _, update := range []bool{false, true} {
		if update {
			if _, err := output(command(ctx, "apt-get", "update", "-qq")); err != nil {
				return "", err
			}
		}
		out, err := output(command(ctx, "apt-cache", "depends", "--important", meta))
		if pkg := imagePackage.FindString(strings.ReplaceAll(string(out), meta+"\n", "\n")); err == nil && pkg != "" {
			return pkg, nil
		}
	}
	return "", fmt.Errorf("cannot find %s in this host's package archive: it is in Debian 12's own", meta)
}

// extract takes the kernel and the wanted modules out of a package.
func extract(ctx context.Context, deb, into string) (err error) {
	cmd := command(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = extractTar(tar.NewReader(pipe), into)
	_, rest := io.Copy(io.Discard, pipe)
	return errors.Join(err, rest, cmd.Wait())
}

func extractTar(r *tar.Reader, into string) error {
	if err := os.Mkdir(into+"/modules", 0o755); err != nil {
		return err
	}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		base := path.Base(h.Name)
		stem, _, _ := strings.Cut(base, ".ko")
		switch {
		case h.Typeflag != tar.TypeReg:
		case strings.HasPrefix(base, "vmlinuz-"):
			if err := save(into+"/vmlinuz", r); err != nil {
				return err
			}
		case stem != base && contains(wantedModules, stem):
			if err := save(into+"/modules/"+base, r); err != nil {
				return err
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

func save(file string, r io.Reader) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
