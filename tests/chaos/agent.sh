# An agent: says its pid, and ends as it is told to by a line, or with the code of its second argument when nobody is
# left to tell. Usage: sh agent.sh chaos-NUMBER [CODE]
echo "$$"
read -r code || code=${2:-1}
exit "$code"
