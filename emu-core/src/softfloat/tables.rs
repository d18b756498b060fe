//! Constants of the x87 instructions and of the transcendental kernels, to 128 bits.
//!
//! Each is the truncated significand with bit 127 set, unless said otherwise. They are literals because `const` code for
//! them would be longer than they are; `tests/constants.rs` recomputes every one from its series in multiple precision.

/// pi / 2.
pub(crate) const PI: u128 = 0xc90fdaa2_2168c234_c4c6628b_80dc1cd1;
/// ln(2) * 2.
pub(crate) const LN_2: u128 = 0xb17217f7_d1cf79ab_c9e3b398_03f2f6af;
/// log2(e).
pub(crate) const LOG2_E: u128 = 0xb8aa3b29_5c17f0bb_be87fed0_691d3e88;
/// log2(10) / 2.
pub(crate) const LOG2_10: u128 = 0xd49a784b_cd1b8afe_492bf6ff_4dafdb4c;
/// log10(2) * 4.
pub(crate) const LOG10_2: u128 = 0x9a209a84_fbcff798_8f8959ac_0b7c9178;

/// atan(i / 32), i = 0 to 32, with 127 fraction bits.
pub(crate) const ATAN: [u128; 33] = [
    0x00000000_00000000_00000000_00000000,
    0x03ffaab7_752ec495_09de75dd_b76a3188,
    0x07fd56ed_cb3f7a71_b6593c96_e071706a,
    0x0bf70c13_01788746_093567e7_84cf8367,
    0x0feadd4d_5617b6e3_2c897989_f3e888ef,
    0x13d6eee8_c6626c58_68ec33a4_a06c1fd0,
    0x17b97b4b_ce5b0226_8f6169f1_03938e90,
    0x1b90d752_9260a204_5ec434b8_396aa5e0,
    0x1f5b75f9_2c80dd62_adb8f3de_bef442fc,
    0x2317eb46_17e2f04c_3291d22c_6fe20a63,
    0x26c4ee6e_0fd7979a_716aed26_349ebcca,
    0x2a615b32_a39a93b6_a66dfdde_fdf67a30,
    0x2dec3283_c9bde11c_e2a8c848_b73f9120,
    0x31649a72_94364adb_685d1ba4_7d428a37,
    0x34c9dd87_9847f96d_909f257a_40079c4d,
    0x381b6992_9d93df19_f18c7b65_9e632e00,
    0x3b58ce0a_c3769ed1_5bf9117b_2f0ea340,
    0x3e81ba16_a8282f97_19b48f1f_57723b30,
    0x4195fa53_6cc33f15_25b504e5_b0d28ae0,
    0x4495766f_ef4aa3da_84a23c7e_2395a57d,
    0x47802eaf_7bfacfcd_ae41af0b_32e21ba3,
    0x4a563964_c238c37b_0c6279c9_fbc5197c,
    0x4d17c073_38deed10_21137c71_1027f9de,
    0x4fc4fee2_7a5bd0f6_7c5a4932_278380ef,
    0x525e3e8c_9a7b8492_0cd43f95_22bed64f,
    0x54e3d5ee_24187ae4_48b5425a_df3c99fa,
    0x5756261c_5a6c6040_0a392f17_9f290385,
    0x59b598e4_8f821b48_ac80a0ba_22317c9c,
    0x5c029f15_e118cf39_e596d2a9_0852221e,
    0x5e3daef5_74c57940_6a089803_7407d948,
    0x606742dc_56293320_44eeb162_37497d12,
    0x627fd7fd_5fc7deaa_465a1e88_5e4f0110,
    0x6487ed51_10b4611a_62633145_c06e0e68,
];

/// 2^(i / 32), i = 0 to 31, with 127 fraction bits.
pub(crate) const EXP2: [u128; 32] = [
    0x80000000_00000000_00000000_00000000,
    0x82cd8698_ac2ba1d7_3e2a475b_46520bff,
    0x85aac367_cc487b14_c5c95b8c_2154c1b2,
    0x88980e80_92da8527_5df8d76c_98c67562,
    0x8b95c1e3_ea8bd6e6_fbe46287_58a53c90,
    0x8ea4398b_45cd53c0_2dc0144c_8783d4c5,
    0x91c3d373_ab11c336_0fd6d8e0_ae5ac9d8,
    0x94f4efa8_fef70961_2e8afad1_2551de54,
    0x9837f051_8db8a96f_46ad2318_2e42f6f6,
    0x9b8d39b9_d54e5538_a2a817a2_a3cc3f1f,
    0x9ef53260_91a111ad_a0911f09_ebb9fdd1,
    0xa2704303_0c496818_9b7a04ef_80cfdea7,
    0xa5fed6a9_b15138ea_1cbd7f62_1710701b,
    0xa9a15ab4_ea7c0ef8_541e24ec_3531fa73,
    0xad583eea_42a14ac6_4980a8c8_f59a2ec4,
    0xb123f581_d2ac258f_87d037e9_6d215d8e,
    0xb504f333_f9de6484_597d89b3_754abe9f,
    0xb8fbaf47_62fb9ee9_1b879778_566b65a1,
    0xbd08a39f_580c36be_a8811fb6_6d0faf7a,
    0xc12c4cca_66709456_7c457d59_a50087b5,
    0xc5672a11_5506dadd_3e2ad0c9_64dd9f37,
    0xc9b9bd86_6e2f27a2_80e1f92a_0511697e,
    0xce248c15_1f8480e3_e235838f_95f2c6ed,
    0xd2a81d91_f12ae45a_12248e57_c3de4028,
    0xd744fcca_d69d6af4_39a68bb9_902d3fde,
    0xdbfbb797_daf23755_3d840d5a_9e29aa64,
    0xe0ccdeec_2a94e111_06589504_8dd333ca,
    0xe5b906e7_7c8348a8_1e5e8f4a_4edbb0ec,
    0xeac0c6e7_dd24392e_d02d75b3_706e54fa,
    0xefe4b99b_dcdaf5cb_46561cf6_948db912,
    0xf5257d15_2486cc2c_7b9d0c7a_ed980fc3,
    0xfa83b2db_722a033a_7c25bb14_315d7fcc,
];

/// Lowest and highest index of [`LOG`]: floor(64 v) for v from sqrt(1/2) to sqrt(2).
pub(crate) const LOG_FIRST: usize = 45;

/// For v in [j/64, (j+1)/64), j from 45 to 90: c = round(128 / v) at the interval's middle, and -log2(c / 128) with 120 fraction bits.
pub(crate) const LOG: [(u128, i128); 46] = [
    (180, -0x007dea15_a32c1b3b_3864c600_1143d6c9),
    (176, -0x00759d4f_80cba83b_f8faf866_415554d7),
    (172, -0x006d1faf_dce20a82_9051bbe3_f6289e3b),
    (169, -0x0066a008_e4788cbc_d2edb439_0e5306a3),
    (165, -0x005dc74a_e9fbecef_91bfb354_48929ff2),
    (162, -0x00570068_e7ef5a1e_7e802c48_281a2eb8),
    (159, -0x00501918_ec6c1125_d6cbcd10_948cd498),
    (156, -0x0049101e_ac381ce6_0916e52e_91300eff),
    (153, -0x0041e42b_6ec0c025_bc0c69a6_75516eb7),
    (150, -0x003a93dc_9864b2df_91e96aca_04740a89),
    (148, -0x00359ebc_5b69d927_dfc23d97_80306c6a),
    (145, -0x002e0e85_a9de04fe_538039f5_aefcf6d5),
    (142, -0x002655d3_c4f15c34_3ea3e580_eb4e974d),
    (140, -0x002118b1_19b4f3c7_2c4f78df_a14aa516),
    (138, -0x001bc842_40adabba_63b2c5a6_e5197ab9),
    (135, -0x0013aa2f_dd27f1c2_d804d112_1b4a6277),
    (133, -0x000e26fd_5c8555af_7a7c7c34_f31dc415),
    (131, -0x00088e68_ea899a09_76c0a282_7d49a3aa),
    (129, -0x0002dfca_16dde10a_2ff1c6f6_002f29e9),
    (127, 0x0002e58f_7441ee64_eb6ba309_458c2b6e),
    (125, 0x0008c25c_7262b57c_1491f06c_085bc1b8),
    (123, 0x000eb75e_8f8ff5ff_022aacc0_e21d6541),
    (121, 0x0014c560_fe68af88_0e0a0f33_7d555652),
    (120, 0x0017d604_96cfbb4c_673b4511_f8c2b4e4),
    (118, 0x001e0b1a_e8f2fd56_64b3a58d_b2427e7f),
    (116, 0x00245b5b_8556692d_a5a475e6_4e39c898),
    (115, 0x00278df6_ca19bca1_42c8958f_27b65188),
    (113, 0x002e08c0_638f3f09_7c33972a_ef4b5d4f),
    (111, 0x0034a129_6a9a5050_809db756_75c907e8),
    (110, 0x0037f8cf_4fffe998_0de057bd_c173ebbc),
    (109, 0x003b5845_a7c883a5_fc8ae9c1_372a9dbd),
    (107, 0x00422f38_3657e8df_b0aa4406_f31c097e),
    (106, 0x0045a701_4d8fc561_c8d43e01_7579b716),
    (104, 0x004caffb_8dc3b9a1_968925e3_78d67cae),
    (103, 0x00504180_5f0fb28a_39a729fd_1994fb2c),
    (102, 0x0053dbee_cb3b1661_e393a16b_94b51cf7),
    (101, 0x00577f73_c7bab839_10b5b643_a6ecb70e),
    (99, 0x005ee27c_0b3caab4_c7c4f175_aa9d93cd),
    (98, 0x0062a260_2afef4c9_99aa6df8_b7d834af),
    (97, 0x00666c1c_aa5b1ac9_bca36fd0_2deefef6),
    (96, 0x006a3fe5_c6042978_605ff4ed_f5f97452),
    (95, 0x006e1df1_5ec6c1bf_bf899cf2_b3bf6226),
    (94, 0x00720677_0b517f90_e25762b1_1993c8ff),
    (93, 0x0075f9b0_2af0d5e3_0f52d6ae_74fdad3d),
    (92, 0x0079f7d7_f94e2acd_3bed456b_24ed10f5),
    (91, 0x007e012b_a3433406_635e5cdf_d4c29706),
];
