# Ids travel as lines, statuses as JSON lines.
# needs: jq
for n in 1 2 3; do daq-start --file a.fits --id "job-$n"; done | daq-collect -q --job -
test "$(find "$DAQ_SPOOL/merge" -name '*.json' | wc -l)" = 3

daq-status --json | jq -r .id | daq-merge -q --json --job - >merged.jsonl
test "$(jq -s 'map(select(.code == 0 and .place == "release")) | length' merged.jsonl)" = 3

daq-status --place release --json | jq -r 'select(.substate == "Releasing") | .id' |
    daq-release -q --job -
test "$(daq-status --all --json | jq -r .state | sort -u)" = StateCompleted

# each product is named in the status
daq-status --all --json | jq -r .result | while read -r product; do test -s "$product"; done

# a job written by hand, with jq instead of daq-start
jq -n --arg path "$PWD/b.fits" \
    '{sources: [{type: "fitsFile", sourceName: "b", location: $path}]}' >.new
mv .new "$DAQ_SPOOL/collect/.new"
mv "$DAQ_SPOOL/collect/.new" "$DAQ_SPOOL/collect/mine.json"
daq-watch -q --once
test -e "$DAQ_SPOOL/done/mine.json"
