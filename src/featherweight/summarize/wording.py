"""Small closed word lists: how summaries report speech, and how speech asks, agrees and denies."""

from featherweight.retrieve.terms import stem, word_set

FIRST_PERSON = word_set("i we me my our us mine ours myself ourselves")
AGREEMENT = word_set(
    """
    agree agreed agrees agreeing agreement accepted approve approved support supported
    definitely yes yeah yep ok okay right sure good fine
    """
)
ASKING = word_set(
    """
    ask asks asked asking question questioned questions inquire inquired wonder wondered
    wondering query enquired whether
    """
)
NEGATIONS = word_set(
    """
    no not n't t never none nor without cannot neither nobody nothing nowhere disagree disagreed
    against unnecessary
    """
)

# Words of the summary's voice rather than the meeting's. Taken from the answers of QMSum's train
# split: stems that stand in the answer but in their evidence at less than half the usual rate,
# without names and topics.
REPORTING = frozenset(
    stem(word)
    for word in word_set(
        """
    accordingly accept according account achieve add addition additionally admit advise
    afterward agree aim also although announce answer argue ask aspect attention attitude aware
    began begin believe besides brief bring brought cause claim clarify come comment concern
    conclude conclusion consensus consequently consider contribute convince decide decision
    demonstrate describe desire despite difference different disagree discuss discussion due
    emphasize end especially etc everyone explain express felt final finally find first firstly
    further furthermore future gave give go good group held hence hope however idea indicate
    inform inquire insist instead introduce issue last lastly later least lead main make
    meanwhile meet meeting member mention meantime moreover need next note object opinion
    opposite order overall part participant particular people person perform plan point possible
    prefer present presentation problem promise propose provide put question raise reach reason
    recommend regard regarding remark reply report request respectively respond respondent
    result said say second secondly seem several show speak speaker specific state stress such
    suggest suggestion summarize support take talk team tell therefore third thought told took
    topic towards turn various view want way went whole wish wonder work
    """
    )
)

# What stands for something said before; "they" may also be the group, see `points.dangling`.
PRONOUNS = word_set("he she it this that these those his her its their")
