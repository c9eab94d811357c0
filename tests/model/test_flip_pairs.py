"""Which keypoints change places in a mirror: the lists of public data sets, and what cannot be told."""

import pytest
from masklake.model.coco import FLIP_PAIRS, KEYPOINT_NAMES
from masklake.model.errors import ModelError
from masklake.model.flip_pairs import mirrored, parse, propose

PUBLIC = {
    # mmpose's dataset configs, and how tools spell the same
    "AIC": ("Right Shoulder,Right Elbow,Right Wrist,Left Shoulder,Left Elbow,Left Wrist,Right Hip,Right Knee,Right Ankle,"
            "Left Hip,Left Knee,Left Ankle,Head top,Neck", [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8, 12, 13]),
    "MHP": ("Right-ankle,Right-knee,Left-knee,Left-ankle,Pelvis,Thorax,Head-top", [3, 2, 1, 0, 4, 5, 6]),
    "AnimalPose": ("L_Eye,R_Eye,L_EarBase,R_EarBase,Nose,Throat,TailBase,Withers,L_F_Elbow,R_F_Elbow,L_B_Elbow,R_B_Elbow",
                   [1, 0, 3, 2, 4, 5, 6, 7, 9, 8, 11, 10]),
    "AP-10K": ("L_Eye,R_Eye,Nose,Neck,Root of tail,L_Shoulder,L_F_Paw,R_Shoulder,R_F_Paw", [1, 0, 2, 3, 4, 7, 8, 5, 6]),
    "AnimalKingdom": ("Head_Mid_Top,Eye_Left,Eye_Right,Mouth_Front_Top,Mouth_Back_Left,Mouth_Back_Right,Tail_End_Back",
                      [0, 2, 1, 3, 5, 4, 6]),
    "fly": ("head,eyeL,eyeR,thorax,forelegR1,forelegR2,forelegL1,forelegL2,wingL,wingR", [0, 2, 1, 3, 6, 7, 4, 5, 9, 8]),
    "locust": ("head,abdomen1,abdomen2,anttipL,antbaseL,anttipR,antbaseR", [0, 1, 2, 5, 6, 3, 4]),
    "zebra": ("snout,head,neck,forelegL1,forelegR1,hindlegL1,hindlegR1,tailbase,tailtip", [0, 1, 2, 4, 3, 6, 5, 7, 8]),
    "DeepFashion": ("left collar,right collar,left hem,right hem", [1, 0, 3, 2]),
    "MPII TRB": ("neck,medial_left_ankle,lateral_left_ankle,medial_right_ankle,lateral_right_ankle", [0, 3, 4, 1, 2]),
    "InterHand": ("right_thumb1,right_thumb2,left_thumb1,left_thumb2", [2, 3, 0, 1]),
    "OpenPose": ("Nose,RShoulder,RElbow,LShoulder,LElbow,MidHip", [0, 3, 4, 1, 2, 5]),
    "SMPL": ("Pelvis,L_Hip,R_Hip,Spine1,Spine2,L_Big_toe,R_Big_toe", [0, 2, 1, 3, 4, 6, 5]),
    "glued": ("nose,lefteye,righteye,earleft,earright", [0, 2, 1, 4, 3]),
    "other letters": ("LEFT_EYE,Right_Eye,lip,rear", [1, 0, 2, 3]),
    "cars": ("FL,FR,RL,RR", [1, 0, 3, 2]),
    "horses": ("LF,RF,LR,RR", [1, 0, 3, 2]),
    "Blender": ("eye.l,eye.r,hand.L,hand.R", [1, 0, 3, 2]),
    "German": ("Nase,linkes Auge,rechtes Auge,linke Hand,rechte Hand", [0, 2, 1, 4, 3]),
    "French": ("oeil_gauche,oeil_droit,main gauche,main droite", [1, 0, 3, 2]),
    "Spanish": ("ojo izquierdo,ojo derecho,mano izquierda,mano derecha", [1, 0, 3, 2]),
    "Chinese": ("左眼,右眼,鼻", [1, 0, 2]),
    "one": ("tip", [0]),
    "none": ("", []),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_pairs_are_told_by_many_spellings(name: str) -> None:
    names, order = PUBLIC[name]
    assert mirrored(names.split(",") if names else []) == order


def test_cocos_own() -> None:
    assert propose(KEYPOINT_NAMES).pairs == FLIP_PAIRS


@pytest.mark.parametrize("names", [
    [f"kpt-{i}" for i in range(98)],  # WFLW, 300W, COFW, LaPa
    [f"sss_kpt{i}" for i in range(1, 7)],  # DeepFashion2
    ["nose", "left_eye", "right_eye", "face-0", "face-1", "face-2"],  # COCO-WholeBody, Halpe
    ["0", "1", "2"],
    ["wrist", "thumb1", "thumb2", "forefinger1"],  # one hand, whose mirror image is the other
    ["Nose", "Nearknee", "Offknee"],  # Horse-10
    ["left_eye", "right_eye", "left_ear"],
    ["L_eye", "R_eye", "L_ear", "nose"],
    ["left_eye"],
    ["left_eye", "Left Eye", "right_eye"],
])  # fmt: skip
def test_what_cannot_be_paired_is_not_mirrored(names: list[str]) -> None:
    assert not propose(names).usable
    assert mirrored(names) is None
    assert mirrored(names, ()) == list(range(len(names)))


def test_pairs_by_hand() -> None:
    names = ["a", "b", "c", "d"]
    assert parse("a:c, d:b", names) == ((0, 2), (3, 1))
    assert mirrored(names, parse("a:c,d:b", names)) == [2, 3, 0, 1]
    assert parse("none", names) == ()
    for text, problem in {
        "a": "'a' is not LEFT:RIGHT",
        "a:a": "'a:a' is not LEFT:RIGHT",
        "a:x": "no keypoint 'x'; there are a, b, c, d",
        "a:b,b:c": "names a keypoint twice",
    }.items():
        with pytest.raises(ModelError, match="--flip-pairs: ") as error:
            parse(text, names)
        assert problem in str(error.value)
