# Cron starts the same line again while the first one is still at work: nothing is done twice.
for n in 1 2 3 4 5 6; do daq-start --file a.fits --file b.fits --id "job-$n" >/dev/null; done
for stage in collect merge release; do
    pids=
    for turn in 1 2 3; do
        "daq-$stage" -q --all 2>"$stage.$turn.err" &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid" || case $? in 66 | 75) ;; *) exit 1 ;; esac
    done
    "daq-$stage" -q --all
done
test "$(find "$DAQ_SPOOL/done" -name '*.json' | wc -l)" = 6
test "$(find "$DAQ_SPOOL/result" -name '*.fits' | wc -l)" = 6
for n in 1 2 3 4 5 6; do
    for stage in collect merge release; do
        log=$DAQ_SPOOL/log/job-$n.jsonl
        test "$(grep '"event": "start"' "$log" | grep -c "\"stage\": \"$stage\"")" = 1
        test "$(grep '"event": "ok"' "$log" | grep -c "\"stage\": \"$stage\"")" = 1
    done
done
