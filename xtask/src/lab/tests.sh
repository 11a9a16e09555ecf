# Runs the selected tests in the guest, each in a process of its own, some at the same time; xtask's lab/job.rs sets the
# variables. A guest is slow, and a test beside others may miss a deadline: one that fails runs again, alone, at the end.
# What it prints then is the result.
cd "$DIRECTORY" || exit
export PROGRAM TEST_LIMIT RUST_BACKTRACE=0
busybox=/run/lab/busybox
eval "\"\$PROGRAM\" $SELECTION --list" 2>/dev/null | sed -n 's/: test$//p' > /run/lab/names
[ -s /run/lab/names ] || exit 2
cat > /run/lab/one <<'END'
log=$(mktemp)
if timeout -s KILL "$TEST_LIMIT" "$PROGRAM" --exact "$2" --show-output > "$log" 2>&1; then
  sed -n "s/^skipped: /$2: skipped: /p" "$log"
  echo "test $2 ... ok"
else
  code=$?
  if [ "$1" = first ]; then sed -n '/panicked at/,+2p' "$log"; else cat "$log"; fi
  echo "test $2 ... FAILED ($1 try, exit code $code)"
  [ "$1" = second ] || echo "$2" >> /run/lab/again
fi
rm "$log"
END
: > /run/lab/again
"$busybox" xargs -r -n 1 -P "$THREADS" "$busybox" sh /run/lab/one first < /run/lab/names
"$busybox" xargs -r -n 1 "$busybox" sh /run/lab/one second < /run/lab/again
