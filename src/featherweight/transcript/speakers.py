"""Is `Jane Smith: hello` a or is `Let's start: the budget` speech?

No single line can tell, so the whole file is asked. A label must look like a name (capitals, or a
script without them), must not be a word that headings and sentences start with, and counts for
more when it comes back. Where the file is labelled throughout, one appearance is enough.
"""

import re
from collections import Counter
from collections.abc import Iterable
from string import ascii_uppercase

_LABEL = re.compile(r"([^:：\n]{1,80})(?::(?=\s|$|[^\x00-\x7f])|：)\s*")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")  # (EXT), [Guest], (she/her)
_STRONG = re.compile(
    r"(?:speaker|participant|person|interviewer|interviewee|moderator|guest|caller|unknown)"
    r"[ _-]?(?:\d{1,3}|[a-z])|unknown speaker|speaker_unknown",
    re.IGNORECASE,
)
_PHONE = re.compile(r"\+?[\d*][\d*() .-]{5,20}")
_INVISIBLE = re.compile("[\u200b-\u200f]")  # joiners that names are spelt with, marks of direction
_WORD = re.compile(r"[^\W_][\w.'’‘`´·&/@+-]*,?|&|\||-|–")
_NUMBERED = re.compile(
    r"(?:plan|option|step|phase|part|item|point|slide|page|section|chapter|week|day|version|task|"
    r"ticket|issue|figure|table|question|answer|room|number|no\.?|quarter|level|stage|group|team|"
    r"scenario|case|example|rule|goal|priority|sprint|act|appendix)\s+\S{1,4}",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"(?:\w|dr|mr|mrs|ms|prof|st|sr|jr|hon|rev|lt|col|gen|capt|sgt|ph\.d|m\.d|corp|inc|ltd|co)"
)


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in text.split(","))


_PARTICLES = _phrases(
    """
    van, von, de, der, den, del, della, di, da, do, dos, das, du, la, le, el, al, bin, ibn, ben,
    abu, y, e, zu, zur, ter, ten, of, the, and, und, et
    """
)

# Headings of notes and forms.
_HEADINGS = _phrases(
    """
    note, notes, agenda, action, actions, action item, action items, summary, date, time,
    attendees, topic, topics, location, place, participants, present, absent, apologies, subject,
    meeting, duration, title, transcript, transcription, minutes, decision, decisions, next steps,
    next step, overview, background, introduction, conclusion, conclusions, discussion, goals,
    goal, objective, objectives, purpose, keywords, speakers, recording, link, url, http,
    https, file, version, status, due, due date, deadline, start, end, start time, end
    time, invitees, regrets, from, to, cc, re, fwd, todo, to do,
    follow up, follow-up, follow ups, key points, key takeaways, takeaways, highlights, open
    questions, questions, question, answer, answers, q&a, outcome, outcomes, risks, blockers,
    chapter, chapters, section, part, kind, language, confidence, passcode, email, phone, website,
    timestamp, interview date, meeting date, recording date, session date, call date, meeting link,
    zoom link, teams link, recording link, word count, datum, ort, thema, teilnehmer, beginn, dauer,
    uhrzeit, notiz, protokoll, fecha, hora, lugar, asistentes, participantes, tema, nota, notas,
    resumen, heure, lieu, durée, sujet, résumé, ordre du jour, 日期, 参会人, 会议主题, дата,
    участники
    """
)
# What ends the names of a form's fields: Meeting title, Recorded by, Action points.
_FIELDS = _phrases(
    """
    title, time, id, duration, length, name, number, url, by, notes, minutes, summary, agenda,
    attendees, attendance, items, points, decisions, made, meeting, transcript, takeaways
    """
)
# A role when it comes back, a line of a form when it does not: `Host: Jane Smith`.
# `You` is who recorded, in Google Meet and Tactiq.
_ROLES = _phrases("host, speaker, organizer, organiser, owner, guest, chair, presenter, you")
# Words that begin sentences rather than name people.
_STARTERS = _phrases(
    """
    a, an, the, this, that, these, those, here, there, here's, there's, it, it's, its, he, she,
    they, we, you, i, i'm, i'll, we're, we'll, let, let's, lets, so, and, but, or, because, if,
    when, while, then, now, well, okay, ok, oh, um, uh, yes, yeah, no, nope, right, sure, great,
    good, fine, thanks, thank, please, sorry, hello, hi, hey, bye, first, second, third, fourth,
    firstly, secondly, thirdly, finally, lastly, last, next, also, again, still, one, two, three,
    four, five, six, seven, eight, nine, ten, what, what's, why, how, who, where, which, whose,
    my, our, your, their, his, her, all, any, some, each, every, both, another, other, remember,
    reminder, warning, caution, important, attention, example, update, quick, just, only, maybe,
    perhaps, actually, basically, today, tomorrow, yesterday, monday, tuesday, wednesday,
    thursday, friday, saturday, sunday, january, february, march, july, september, october,
    november, december, is, are, was, were, be, do, does, did, have, has, had, can, could, would,
    should, might, must, not, never, always, for, with, without, in, on, at, by, as, of, to, from,
    about, after, before, ps, nb, eg, ie, e.g, i.e, etc, fact, bonus, result, results, problem,
    solution, idea, ideas, budget, price, cost, costs, total, pros, cons, spoiler, tip, tips,
    hint, correction, edit, disclaimer, source, sources, reference, references, see, quote,
    translation, music, applause, laughter, narrator's, bottom, long, short, main, key, new, old,
    more, less, same, think, look, listen, wait, point, points, rule, option, options, plan,
    issue, issues, reason, reasons, meaning, case, step, steps, list, things, thing, something,
    nothing, everything, someone, everyone, anyone, q1, q2, q3, q4, really, honestly, exactly,
    however, therefore, otherwise, overall, alternatively, additionally, meanwhile, instead,
    besides, obviously, clearly, hopefully, unfortunately, specifically, context, clarification,
    assumption, scope, timeline, benefits, impact, feedback, comment, comments, suggestion,
    recommendation, proposal, request, response, reply, error, bug, fix, feature, release, demo
    """
)


def split_label(line: str) -> tuple[str, str] | None:
    """(label, rest) where `line` starts with something that could name a else None.

    Looks at the shape only: `choose_labels` decides. `10:30 Meeting:` has no such shape: the
    first colon has to end the label.
    """
    match = _LABEL.match(line)
    if match is None:
        return None
    label = " ".join(match[1].split()).strip("\u200e\u200f")
    return (label, line[match.end() :]) if could_be_name(label) else None


def labelled_lines(lines: Iterable[str]) -> int:
    """How many of `lines` begin with a label that names a speaker, as the whole of them tell."""
    there = [line.strip() for line in lines if line.strip()]
    labels = [pair[0] for line in there if (pair := split_label(line)) is not None]
    chosen = choose_labels(labels, len(there))
    return sum(label in chosen for label in labels)


def is_role(label: str) -> bool:
    """True for `Host` and the like, which forms name people by too."""
    return label.casefold() in _ROLES


def could_be_name(label: str) -> bool:
    """True for at most five words (asides in brackets apart) without a sentence's punctuation."""
    if not 0 < len(label) <= 64 or label.endswith(","):
        return False
    if _PHONE.fullmatch(label):
        return sum(character.isdigit() for character in label) >= 7
    words = _ASIDE.sub(" ", label).split()
    if not 0 < len(words) <= 5 or not any(character.isalpha() for character in label):
        return False
    if is_heading(label) or _NUMBERED.fullmatch(label):
        return False
    return all(_plain_word(word) for word in words)


def is_heading(label: str) -> bool:
    """True for labels that notes and forms use: Date, Agenda, Action items, Meeting title."""
    text = label.strip(" *_#").casefold()
    first, _, last = text.rpartition(" ")
    return text in _HEADINGS or (bool(first) and last in _FIELDS)


def starts_sentence(label: str) -> bool:
    """True for labels whose first word rather begins a sentence: `So`, `The plan`."""
    words = label.split()
    return len(label) > 1 and words[0].lower().rstrip(",") in _STARTERS


def is_name_like(label: str) -> bool:
    """True where every word is written as names are: capitals, or a script without capitals."""
    if _STRONG.fullmatch(label) or _PHONE.fullmatch(label) or "@" in label:
        return True
    words = _ASIDE.sub(" ", label).split()
    for position, word in enumerate(words):
        letters = [character for character in word if character.isalpha()]
        if not letters:
            continue
        starts_low = letters[0].islower()
        if starts_low and not any(letter.isupper() for letter in letters):
            if "_" in word or (position > 0 and word.lower().rstrip(",") in _PARTICLES):
                continue
            if position == 0 and len(words) > 1 and word in _PARTICLES:
                continue
            return False
    return any(character.isalpha() for word in words for character in word)


def choose_labels(labels: Iterable[str], units: int) -> frozenset[str]:
    """The labels that name speakers, out of every candidate in a file of `units` lines or cues."""
    counts = Counter(labels)
    letters = [label for label in counts if len(label) == 1 and label in ascii_uppercase]
    chosen = set()
    single = set()
    for label, count in counts.items():
        words = len(_ASIDE.sub(" ", label).split())
        if len(label) == 1 and label.isascii():
            continue  # Q and A, below
        if starts_sentence(label) or is_role(label):
            if is_name_like(label) and count > 2 and (words > 1 or is_role(label)):
                chosen.add(label)  # The Chair, An Nguyen
        elif _STRONG.fullmatch(label) or _PHONE.fullmatch(label):
            chosen.add(label)
        elif is_name_like(label):
            if count > 1 or words > 1:
                chosen.add(label)
            else:
                single.add(label)
        elif (words == 1 and count > 1) or (words <= 3 and count > 2 and count * 20 >= units):
            chosen.add(label)  # jsmith, project manager
    # Q: and A:, or A: B: C: where the letters take turns through most of the file.
    turns = sum(counts[label] for label in letters)
    if len(letters) > 1 and turns * 2 >= units and all(counts[label] > 1 for label in letters):
        chosen.update(letters)
    covered = sum(counts[label] for label in chosen | single)
    if covered * 2 >= units:
        chosen |= single
    return frozenset(chosen)


def _plain_word(word: str) -> bool:
    """No sentence end inside: `Dr.` and `J.` are names, `done.` is not."""
    if word.endswith(".") and not _ABBREVIATION.fullmatch(word[:-1].lower().rstrip(".")):
        return len(word) <= 4 and word[0].isupper()  # Sen., Gov.
    return _WORD.fullmatch(word) is not None or (
        _INVISIBLE.sub("", word).isprintable()
        and not word.isascii()
        and not any(c in '?!。！？；;"“”«»…' for c in word)
    )
