# An agent: says its pid, and ends as it is told to by a line, or with CODE when nobody is left to tell. It leaves a
# process behind for a moment, or is killed at once unless the file FALL is there, which it then makes.
# Usage: sh agent.sh chaos-NUMBER [CODE [leave|FALL]]
case ${3:-} in
leave) sleep 2 </dev/null >/dev/null 2>&1 & ;;
?*) [ -e "$3" ] || { : >"$3"; kill -KILL $$; } ;;
esac
echo "$$"
read -r code || code=${2:-1}
exit "$code"
