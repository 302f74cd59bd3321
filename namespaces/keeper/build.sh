#!/bin/sh
# Builds the keeper, byte for byte the same from the same compiler: no build id,
# no paths, no time stamps. A test rebuilds it and compares.
set -eu
cd "$(dirname "$0")"
out=${1:-keeper_amd64}
${CC:-gcc} -std=gnu11 -Os -static -nostdlib -ffreestanding -fno-builtin -fno-pie -no-pie \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns \
	-fcf-protection=none -mno-red-zone -march=x86-64 -mgeneral-regs-only \
	-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Werror \
	-Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,separate-code -s \
	-o "$out" start.c launcher.c replies.c holder.c room.c confine.c table.c clone.c turns.c userns.c template.c groups.c check.c steps.c reaper.c
