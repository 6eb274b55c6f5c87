"""Which message is for whom: answers name their question, and nothing old is taken for new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tutelage.schemas.conversation import Conversation, Message


class Post:
    """Two inboxes that keep every message, as topics do, and sides that die and come back."""

    def __init__(self) -> None:
        self.to_teacher: list[Message] = []
        self.to_student: list[Message] = []
        self.teacher = self.new_teacher()
        self.student = Conversation(answers_all=False)
        self.read = {"teacher": 0, "student": 0}

    def new_teacher(self) -> Conversation:
        side = Conversation(answers_all=True)
        seen = self.to_student[-1].seen if self.to_student else 0
        side.start_at(seen)
        self.read = {**getattr(self, "read", {}), "teacher": seen}
        return side

    def teacher_dies(self) -> None:
        self.teacher = self.new_teacher()

    def student_dies(self) -> None:
        self.student = Conversation(answers_all=False)
        self.read["student"] = 0

    def arrive(self, side: str) -> None:
        inbox = self.to_teacher if side == "teacher" else self.to_student
        conversation = self.teacher if side == "teacher" else self.student
        while self.read[side] < len(inbox):
            conversation.receive(inbox[self.read[side]], self.read[side])
            self.read[side] += 1

    def teach_once(self) -> bool:
        """The teacher's loop: take a question, answer it with its double."""
        self.arrive("teacher")
        question = self.teacher.take()
        if question is None:
            return False
        self.to_student.append(self.teacher.compose(2 * question.value))
        return True


@given(
    st.lists(
        st.sampled_from(["teacher dies", "dies before it answers", "student dies", "nothing"]),
        min_size=1,
        max_size=12,
    )
)
def test_each_round_gets_the_answer_to_its_own_question(faults: list[str]) -> None:
    post = Post()
    for number, fault in enumerate(faults):
        post.to_teacher.append(post.student.compose(number))
        if fault == "student dies":
            post.teach_once()
            post.student_dies()
            post.to_teacher.append(post.student.compose(number))
        if fault == "dies before it answers":
            post.arrive("teacher")
            post.teacher.take()
            post.teacher_dies()
        while post.teach_once():
            pass
        if fault == "teacher dies":
            post.teacher_dies()
            while post.teach_once():
                raise AssertionError("a question was answered twice")
        post.arrive("student")
        answer = post.student.take()
        assert answer is not None
        assert answer.value == 2 * number
        assert post.student.take() is None


def test_an_answer_is_found_among_other_messages_which_stay_for_recv() -> None:
    teacher, student = Conversation(answers_all=True), Conversation(answers_all=False)
    question = student.compose("how much", asks=True)
    note = teacher.compose("a note")
    teacher.receive(question, 0)
    assert teacher.take() is question
    answer = teacher.compose(7)
    for offset, message in enumerate((note, answer)):
        student.receive(message, offset)
    assert student.take(question.id) is answer
    # The note was not taken yet: a restart must give it again.
    assert student.seen == 0
    assert student.take() is note
    assert student.seen == 2


def test_two_teachers_that_answer_one_question_give_one_answer() -> None:
    first, second, student = (
        Conversation(answers_all=True),
        Conversation(answers_all=True),
        Conversation(answers_all=False),
    )
    question = student.compose(1)
    for offset, teacher in enumerate((first, second)):
        teacher.receive(question, 0)
        teacher.take()
        student.receive(teacher.compose("answer"), offset)
    assert student.take() is not None
    assert student.take() is None


def test_messages_of_another_run_and_answers_to_others_are_dropped() -> None:
    student, other, teacher = (Conversation(answers_all=each) for each in (False, False, True))
    student.run_id, teacher.run_id = "tue", "mon"
    student.receive(teacher.compose("of monday's run"), 0)
    teacher.run_id = "tue"
    teacher.receive(other.compose("a question of somebody else"), 0)
    teacher.take()
    student.receive(teacher.compose("its answer"), 1)
    student.receive(teacher.compose("for all"), 2)
    found = student.take()
    assert found is not None
    assert found.value == "for all"
    assert student.take() is None


def test_a_student_answers_what_it_was_asked_and_nothing_else() -> None:
    teacher, student = Conversation(answers_all=True), Conversation(answers_all=False)
    student.receive(teacher.compose("hello"), 0)
    student.take()
    assert student.compose("a question").reply_to == ""
    asked = teacher.compose("which temperature", asks=True)
    student.receive(asked, 1)
    student.take()
    assert student.compose(2.0).reply_to == asked.id
    assert student.compose("more").reply_to == ""
