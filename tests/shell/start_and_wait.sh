# Submit, let the watcher work once, and wait for the outcome, all in one line.
id=$(daq-start --file a.fits --file b.fits --prefix T_) && daq-watch -q --once && daq-status --wait --timeout 20 "$id"

test -s "$DAQ_SPOOL/result/T_$id.fits"
test -e "$DAQ_SPOOL/done/$id.json"

# the same with the three stage tools by hand, as a sequencer would
id=$(daq-start -q --file a.fits --id by-hand)
test "$id" = by-hand
daq-collect -q --job "$id" && daq-merge -q --job "$id" && daq-release -q --job "$id"
test -e "$DAQ_SPOOL/done/by-hand.json"

# a wait that cannot be fulfilled in time says so by its code
id=$(daq-start --file a.fits)
code=0
daq-status --wait --timeout 0.3 "$id" >/dev/null 2>&1 || code=$?
test "$code" = 124
