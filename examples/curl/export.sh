job=$(curl -sS -f -o /dev/null -w '%header{location}' "$VB365_URL$EXPORT" \
  -H "Authorization: Bearer $VB365_TOKEN" -H 'Prefer: respond-async' -H 'Content-Type: application/json' -d '{}')
while code=$(curl -sS -f --retry 5 --retry-connrefused -o status.json -w '%{http_code}' "$job" \
    -H "Authorization: Bearer $VB365_TOKEN") && [ "$code" = 202 ]; do
  jq -r .message status.json
  sleep 5
done
[ "$code" = 200 ] && jq -r '.error.message // empty' status.json &&
  jq -e '.status == "Success" or .status == "Warning"' status.json > /dev/null &&
  curl -sS -f --retry 20 -o mailbox.pst "$job/result" -H "Authorization: Bearer $VB365_TOKEN"
jq -r '"\(.result.sha256)  mailbox.pst"' status.json | sha256sum --check
