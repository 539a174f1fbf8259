# A job fails because its file is broken; mend the file, move the job back, done.
cp a.fits in.fits
printf 'no FITS' >in.fits
id=$(daq-start --file in.fits)
code=0
daq-watch -q --once || code=$?
test "$code" = 65
test -e "$DAQ_SPOOL/failed/$id.json"
code=0
daq-status --wait --timeout 5 "$id" >/dev/null 2>&1 || code=$?
test "$code" = 65

cp a.fits in.fits
mv "$DAQ_SPOOL/failed/$id.json" "$DAQ_SPOOL/collect/"
daq-watch -q --once
test -e "$DAQ_SPOOL/result/$id.fits"

# parked by hand: nothing happens to it until it is given back
id=$(daq-start --file a.fits)
mv "$DAQ_SPOOL/collect/$id.json" "$DAQ_SPOOL/hold/"
daq-watch -q --once
test -e "$DAQ_SPOOL/hold/$id.json"
mv "$DAQ_SPOOL/hold/$id.json" "$DAQ_SPOOL/collect/"
daq-watch -q --once
test -e "$DAQ_SPOOL/done/$id.json"

# a paused stage
id=$(daq-start --file a.fits)
touch "$DAQ_SPOOL/merge/.pause"
daq-watch -q --once || test $? = 75
test -e "$DAQ_SPOOL/merge/$id.json"
rm "$DAQ_SPOOL/merge/.pause"
daq-watch -q --once
test -e "$DAQ_SPOOL/done/$id.json"
