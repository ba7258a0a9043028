#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What with-cuse, with-cpus and with-systemd have in common: their arguments, the job directory
# through which host and guest talk, and a guest that cannot outlive its time or its caller.
# Sourced, not run.
#
# The sourcing script has set: name, here, timeout, memory, and defines usage().
# shellcheck disable=SC2034,SC2154

say() { echo "$name: $*" >&2; }

usage_error() {
  say "$1"
  usage >&2
  exit 64
}

# Sets timeout, memory, cpus, shares and command. An option that the script has no default for is
# not its option.
parse_arguments() {
  shares=()
  while (($# > 0)); do
    case $1 in
      --timeout | --memory | --share | --cpus) (($# > 1)) || usage_error "$1 needs a value" ;;&
      --timeout) timeout=$2 && shift 2 ;;
      --memory) memory=$2 && shift 2 ;;
      --share) shares+=("$2") && shift 2 ;;
      --cpus) [[ -v cpus ]] || usage_error "unknown option $1"
        cpus=$2 && shift 2 ;;
      --help | -h) usage && exit 0 ;;
      --) shift && break ;;
      -*) usage_error "unknown option $1" ;;
      *) break ;;
    esac
  done
  (($# > 0)) || usage_error "no COMMAND"
  command=("$@")
  [[ $timeout =~ ^[1-9][0-9]*$ ]] || usage_error "--timeout wants whole seconds, not '$timeout'"
  [[ $memory =~ ^[1-9][0-9]*[MG]$ ]] || usage_error "--memory wants a size like 512M, not '$memory'"
  [[ ${cpus:-1} =~ ^[1-9][0-9]?$ ]] || usage_error "--cpus wants a number below 100, not '$cpus'"
  case $memory in
    *G) memory_kib=$((${memory%G} << 20)) ;;
    *) memory_kib=$((${memory%M} << 10)) ;;
  esac
  ((memory_kib >= 256 << 10)) || usage_error "--memory $memory is too little for the guest"
  for index in "${!shares[@]}"; do
    [[ -d ${shares[index]} ]] || usage_error "--share ${shares[index]} is not a directory"
    shares[index]=$(realpath -- "${shares[index]}")
  done
}

impossible() {
  say "************************************************************************"
  say "no guest here: $1"
  if [[ ${RELAY_SKIP_CUSE:-} == 1 ]]; then
    say "RELAY_SKIP_CUSE=1: NOT RUN: ${command[*]}"
  else
    say "this is a failure; RELAY_SKIP_CUSE=1 skips what needs a guest"
  fi
  say "************************************************************************"
  [[ ${RELAY_SKIP_CUSE:-} == 1 ]] || exit 125
  exit 0
}

# Sets kernel and memory_path.
find_user_mode_linux() {
  kernel=$(PATH=$PATH:/usr/bin type -P linux.uml) || impossible "install user-mode-linux (make deps)"
  PATH=$PATH:/usr/sbin:/sbin type -P insmod >/dev/null || impossible "install kmod (make deps)"
  compgen -G "/usr/lib/uml/modules/*/kernel/fs/fuse/cuse.ko" >/dev/null ||
    impossible "user-mode-linux came without cuse.ko"
  memory_path=$(memory_directory) ||
    impossible "no directory for $memory of guest memory (/dev/shm, TMPDIR, /tmp, /var/tmp)"
}

# The guest's memory is a file that the kernel maps executable. A tmpfs is best; the file must fit,
# or the guest dies with SIGBUS when it touches the missing part (containers: /dev/shm of 64 MiB).
memory_directory() {
  local directory options
  for directory in /dev/shm "${TMPDIR:-/tmp}" /tmp /var/tmp; do
    [[ -d $directory && -w $directory ]] || continue
    options=$(findmnt -n -o OPTIONS --target "$directory" 2>/dev/null | tail -n 1) || true
    [[ ,$options, != *,noexec,* ]] || continue
    (($(df -Pk "$directory" | awk 'END { print $4 }') >= memory_kib)) || continue
    echo "$directory"
    return
  done
  return 1
}

job=
guest=
stream=
timer=
lifeline=

# Every process of the guest is in the guest's own process group; those that its main process
# leaves behind belong to init, which takes a moment to collect them.
kill_guest() {
  [[ -n $guest ]] || return 0
  kill -KILL -- "-$guest" 2>/dev/null || true
  wait "$guest" 2>/dev/null || true
  for ((tick = 0; tick < 100; tick++)); do
    kill -0 -- "-$guest" 2>/dev/null || break
    sleep 0.01
  done
  guest=
}

# shellcheck disable=SC2317 # reached through trap
clean_up() {
  trap '' INT TERM HUP
  kill_guest
  [[ -z $timer ]] || kill "$timer" 2>/dev/null || true
  [[ -z $stream ]] || kill "$stream" 2>/dev/null || true
  [[ -z $job ]] || rm -rf -- "$job"
  [[ -z $lifeline ]] || echo cleaned >&"$lifeline"
}

# Makes the job directory: what guest-init needs, and where it answers.
prepare_job() {
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  # The kernel's command line and its sockets allow neither spaces nor long paths.
  local job_parent=${TMPDIR:-/tmp}
  [[ $job_parent =~ ^/[A-Za-z0-9_./-]{1,60}$ && -w $job_parent ]] || job_parent=/tmp
  job=$(mktemp -d "$job_parent/$name.XXXXXX")
  : >"$job/output"
  printf '%s\0' "${command[@]}" >"$job/argv"
  : >"$job/shares"
  ((${#shares[@]} == 0)) || printf '%s\0' "${shares[@]}" >"$job/shares"
  printf '%s %s\n' "$(ulimit -Sn)" "$(ulimit -Hn)" >"$job/limits"
  printf '%s' "$PWD" >"$job/directory"
  # Directories of this login do not exist in the guest.
  env -0 -u TMPDIR -u XDG_RUNTIME_DIR -u DBUS_SESSION_BUS_ADDRESS >"$job/environment"
  cp "$here/guest-init" "$job/init"
}

# Runs the machine that is given as a command, streams what COMMAND prints, and exits as it did.
run_guest() {
  setsid setpriv --pdeathsig KILL "$@" </dev/null >"$job/console" 2>&1 &
  guest=$!
  # Where this script is killed outright, the pipe closes and its reader cleans up instead.
  # shellcheck disable=SC2016 # expanded by the inner shell
  exec {lifeline}> >(exec setsid bash -c '
    read -r word
    [[ $word != cleaned ]] || exit 0
    kill -KILL -- "-$0"
    rm -rf -- "$1"
  ' "$guest" "$job" >/dev/null 2>&1)
  setpriv --pdeathsig KILL tail -c +1 -f -s 0.1 --pid="$guest" "$job/output" \
    2>/dev/null {lifeline}>&- &
  stream=$!
  setpriv --pdeathsig KILL sleep "$timeout" >/dev/null 2>&1 {lifeline}>&- &
  timer=$!

  local ended=0 timed_out=no
  { wait -n "$guest" "$timer" || ended=$?; } 2>/dev/null
  kill -0 "$timer" 2>/dev/null || timed_out=yes
  kill_guest
  wait "$stream" || true
  stream=
  [[ ! -s $job/status ]] || exit "$(<"$job/status")"

  say "the guest's console ends with:"
  tail -n 40 "$job/console" | tr -d '\r' | sed 's/^/  | /' >&2
  if [[ $timed_out == yes ]]; then
    say "FAILED: time-out after $timeout s: ${command[*]}"
    exit 124
  elif [[ ! -e $job/started && $ended -lt 128 ]]; then
    impossible "it does not start (status $ended)"
  fi
  say "FAILED: the guest died without a status (its own: $ended): ${command[*]}"
  exit 125
}
