# Sourced by the scripts in this folder.
# check_usage MOST "$@": --help prints the comment at the top of the script; options and more than MOST arguments are errors.
check_usage() {
    most=$1
    shift
    for argument in "$@"; do
        case $argument in
            -h | --help)
                sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
                exit 0
                ;;
            -*)
                echo "${0##*/}: there is no option $argument; see ${0##*/} --help" >&2
                exit 2
                ;;
        esac
    done
    if [ $# -gt "$most" ]; then
        echo "${0##*/}: takes at most $most argument(s), got $#; see ${0##*/} --help" >&2
        exit 2
    fi
}
