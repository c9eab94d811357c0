import numpy as np
from masklake.model.eval.confusion import confusion

A, B = 7, 3


def label(class_, box, image=1, **fields):
    return {"image_id": image, "category_id": class_, "bbox": box, **fields}


def detection(class_, box, score=0.9, image=1):
    return {"image_id": image, "category_id": class_, "bbox": box, "score": score}


def counts(labels, results, **options):
    return confusion({"annotations": labels}, results, [A, B], **options).tolist()


def test_right_wrong_missed_and_invented():
    labels = [label(A, [0, 0, 10, 10]), label(B, [50, 0, 10, 10]), label(B, [0, 50, 10, 10])]
    results = [detection(A, [1, 0, 10, 10]), detection(A, [50, 0, 10, 10]), detection(B, [90, 90, 9, 9])]
    assert counts(labels, results) == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_a_right_detection_wins_over_a_wrong_one_that_fits_better():
    labels = [label(A, [0, 0, 10, 10])]
    results = [detection(B, [0, 0, 10, 10], 0.99), detection(A, [2, 0, 10, 10], 0.6)]
    assert counts(labels, results) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_second_detection_of_one_thing_is_one_too_many():
    labels = [label(A, [0, 0, 10, 10])]
    assert counts(labels, [detection(A, [0, 0, 10, 10]), detection(A, [1, 0, 10, 10])])[2] == [1, 0, 0]


def test_overlap_of_half_and_score_are_where_it_begins():
    labels = [label(A, [0, 0, 10, 10])]
    assert counts(labels, [detection(A, [0, 0, 10, 5])]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert counts(labels, [detection(A, [0, 0, 10, 4.9])]) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert counts(labels, [detection(A, [0, 0, 10, 10], 0.5)])[0] == [1, 0, 0]
    assert counts(labels, [detection(A, [0, 0, 10, 10], 0.49)])[0] == [0, 0, 1]
    assert counts(labels, [detection(A, [0, 0, 10, 10], 0.49)], score=0.1)[0] == [1, 0, 0]


def test_crowds_take_what_lies_in_them_of_their_class():
    crowd = label(A, [0, 0, 100, 100], iscrowd=1)
    results = [detection(A, [5, 5, 10, 10]), detection(B, [5, 5, 10, 10]), detection(A, [95, 0, 11, 10])]
    assert counts([crowd], results) == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_images_and_other_classes_are_kept_apart():
    labels = [label(A, [0, 0, 10, 10], image=1), label(99, [0, 0, 10, 10], image=2)]
    results = [detection(A, [0, 0, 10, 10], image=2), detection(99, [0, 0, 10, 10], image=1)]
    assert counts(labels, results) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert not np.any(counts([], []))
