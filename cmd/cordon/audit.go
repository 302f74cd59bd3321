package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxProofFile bounds what is read of a file that a user names.
const maxProofFile = 1 << 20

func auditVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Verify, prove and read the audit log",
		Long: `The audit log has one record for each thing that happened: numbered, chained, and
under a Merkle tree whose root the daemon signs from time to time (a checkpoint).`,
		Example: `  cordon audit verify
  cordon audit tail --follow
  cordon audit who /srv/photos
  cordon audit prove 17 >proof.json`,
		GroupID: groupLook, Args: takes("verify, tail, prove or who"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return usage(cmd, fmt.Sprintf("there is no %q here: verify, tail, prove or who", violation.Escape(args[0], 64)))
		},
	}
	cmd.AddCommand(auditVerify(a), auditTail(a), auditProve(a), auditWho(a))
	return cmd
}

// logFlag adds --log to what reads the files themselves.
func logFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("log", "", "the `file` audit.jsonl; default: where the daemon has it")
}

// logPath finds the audit log: as given, or where the daemon says, which signs
// it first.
func (a *app) logPath(ctx context.Context, given string) (path, publicKey string, err error) {
	if given != "" {
		return given, "", nil
	}
	var signed control.AuditCheckpoint
	err = a.call(ctx, control.MethodAuditCheckpoint, nil, &signed)
	var failed *failure
	if errors.As(err, &failed) {
		failed.hint += "; without a daemon: --log /var/lib/cordon/audit.jsonl"
	}
	return signed.Path, signed.PublicKey, err
}

func auditVerify(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that no record was changed, added or taken away",
		Long: `Read the whole audit log and check that each record follows the one before, that
each is in the tree, and that the tree is the one that the newest checkpoint signs.
It is read here, not by the daemon, which is only asked where it lies.

--proof checks what cordon audit prove printed instead: that needs the public key
(audit.pub beside the log), and no log.

The key that signs lies on the daemon's host. Against root there, only a checkpoint
or proof that was carried away before proves something: see prove --since.`,
		Example: `  cordon audit verify
  cordon audit verify --log /backup/audit.jsonl --key audit.pub
  cordon audit verify --proof proof.json --key audit.pub`,
		Args: takes(),
	}
	log := logFlag(cmd)
	key := cmd.Flags().String("key", "", "check with the public key in this `file`")
	proof := cmd.Flags().String("proof", "", "check the proof in this `file`, or - for standard input")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		public, err := a.readKey(*key)
		if err != nil {
			return err
		}
		if *proof != "" {
			if *key == "" || *log != "" {
				return usage(cmd, "--proof goes with --key, and without --log")
			}
			return a.checkProof(*proof, public)
		}
		return a.verifyLog(cmd.Context(), *log, public, *asJSON)
	}
	return cmd
}

func (a *app) readKey(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := a.readFile(file)
	return string(data), err
}

// readFile reads a bounded file that a user named, - is standard input.
func (a *app) readFile(name string) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read: %w", err)
		}
		defer func() { _ = f.Close() }() // only read from
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxProofFile+1))
	if err == nil && len(data) > maxProofFile {
		err = fmt.Errorf("cannot read %s: more than %d bytes", name, maxProofFile)
	}
	return data, err
}

func (a *app) verifyLog(ctx context.Context, log, public string, asJSON bool) error {
	path, told, err := a.logPath(ctx, log)
	if err != nil {
		return err
	}
	if public == "" {
		public = told
	}
	found, err := audit.VerifyFiles(path, public)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.out, found)
	}
	fmt.Fprintf(a.out, "Records %d to %d are whole; %d are signed, root %s.\n", found.First, found.Last, found.Signed, found.Root)
	if found.First > 1 {
		fmt.Fprintf(a.out, "Records up to %d are no longer kept, as the log says.\n", found.First-1)
	}
	if found.Unfinished > 0 {
		fmt.Fprintf(a.out, "%d bytes after them are no whole record.\n", found.Unfinished)
	}
	return nil
}

func (a *app) checkProof(file, public string) error {
	data, err := a.readFile(file)
	if err != nil {
		return err
	}
	p, err := audit.ParseProof(data)
	if err != nil {
		return err
	}
	if err := p.Check(public); err != nil {
		return err
	}
	signed, err := audit.OpenCheckpoint([]byte(p.Checkpoint), public)
	if err != nil {
		return err
	}
	if p.Record != "" {
		_, err = fmt.Fprintf(a.out, "This record is among the %d that are signed:\n%s\n", signed.N, safeJSON([]byte(p.Record)))
		return err
	}
	_, err = fmt.Fprintf(a.out, "The older log is the beginning of the one with %d records.\n", signed.N)
	return err
}

func auditProve(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "prove [SEQ]", Short: "Print a proof that can be checked without the log",
		Long: `Print, as JSON, a proof that the record with number SEQ is in the log, which
cordon audit verify --proof checks with the public key alone.

With --since, prove instead that the log has only grown since an older checkpoint,
such as a copy of audit.checkpoint that was carried away. Without either, print the
checkpoint, signed now.`,
		Example: `  cordon audit prove 17 >proof.json
  cordon audit prove >checkpoint.txt
  cordon audit prove --since checkpoint.txt >grown.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return takes("SEQ")(cmd, args)
		},
	}
	log := logFlag(cmd)
	since := cmd.Flags().String("since", "", "the `file` with an older checkpoint")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *since != "" && len(args) > 0 {
			return usage(cmd, "SEQ and --since exclude each other")
		}
		if *since == "" && len(args) == 0 {
			return a.printCheckpoint(cmd.Context())
		}
		return a.prove(cmd, *log, *since, args)
	}
	return cmd
}

func (a *app) prove(cmd *cobra.Command, log, since string, args []string) error {
	var seq uint64
	var old []byte
	var err error
	if since != "" {
		old, err = a.readFile(since)
	} else if seq, err = strconv.ParseUint(args[0], 10, 63); err != nil || seq == 0 {
		return usage(cmd, fmt.Sprintf("%q is no record's number", violation.Escape(args[0], 64)))
	}
	if err != nil {
		return err
	}
	path, _, err := a.logPath(cmd.Context(), log)
	if err != nil {
		return err
	}
	var p audit.Proof
	if since != "" {
		p, err = audit.ProveGrowth(path, string(old))
	} else {
		p, err = audit.Prove(path, seq)
	}
	if err != nil {
		return err
	}
	return printJSON(a.out, p)
}

// printCheckpoint prints it as it stands in its file: it is signed.
func (a *app) printCheckpoint(ctx context.Context) error {
	var signed control.AuditCheckpoint
	if err := a.call(ctx, control.MethodAuditCheckpoint, nil, &signed); err != nil {
		return err
	}
	_, err := io.WriteString(a.out, signed.Checkpoint)
	return err
}

func auditTail(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "tail", Short: "Print the newest records",
		Long:    `Print the newest records of the audit log, of all plugins. --follow goes on.`,
		Example: `  cordon audit tail -n 50 --follow`,
		Args:    takes(),
	}
	lines := cmd.Flags().IntP("lines", "n", 20, "how many records, at most 1000")
	follow := cmd.Flags().BoolP("follow", "f", false, "go on printing as things happen")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *lines < 0 {
			return usage(cmd, "--lines must not be negative")
		}
		var events []control.Event
		return a.follow(cmd.Context(), control.MethodEvents, control.EventsParams{Follow: *follow}, *follow, &events,
			func() error {
				newest := events[max(0, len(events)-*lines):]
				return printEach(newest, func(e control.Event) error { return a.printEvent(e, *asJSON) })
			},
			func(note json.RawMessage) error {
				var e control.Event
				if err := json.Unmarshal(note, &e); err != nil {
					return fmt.Errorf("cannot read the daemon's answer: %w", err)
				}
				return a.printEvent(e, *asJSON)
			})
	}
	return cmd
}
