"""Teacher 2 of the toy: writes x -> 2x+1 to a file or a topic.

python run_teacher2.py --out_path teacher2.avro
python run_teacher2.py --out_topic teacher2
"""

from tutelage.examples.toy.flags import exit_with, teacher_flags
from tutelage.examples.toy.serving import serve
from tutelage.examples.toy.teachers import Teacher2


def main() -> None:
    """Serve with the flags' settings."""
    serve(Teacher2(), "teacher2", teacher_flags("Teacher 2 of the toy: predicts 2x+1."))


if __name__ == "__main__":
    exit_with(main)
